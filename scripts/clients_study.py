"""Measures the seconds of a round by the number of clients, and of W8, with client state on the device and on the host.

    python scripts/clients_study.py

Prints a JSON line for each measurement. A client holds 8 synthetic images of 8 x 8 and keeps its own linear model
beside the shared one. The cohort stays at 10 while clients grow from 10 to 100,000; W8 has 100,000 clients and a cohort
of 1,000.
"""

import json
import os
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_mri.core import trees
from fedjax_mri.data.contract import ClientData
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, initial_state
from fedjax_mri.fed.sampling import Population, Uniform
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.tasks.task import Model, Phase, Task, everything

STUDY = [(clients, 10) for clients in (10, 100, 1_000, 10_000, 100_000)]
W8 = (100_000, 1_000)
ROUNDS, REPEATS = 100, 9


def main() -> None:
    """Runs each measurement in its own process, so that it has its own peak of memory."""
    for clients, cohort in (*STUDY, W8):
        for place in ("device", "host"):
            subprocess.run([sys.executable, __file__, str(clients), str(cohort), place], check=True)


def measure(clients: int, cohort: int, place: str) -> None:
    """Measures one case and prints a line."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    sim, root = simulation(clients, cohort), jax.random.key(0)
    plan = Plan(clients=place).resolve()  # type: ignore[arg-type]
    start = time.perf_counter()
    segment, state = segments.build(sim, plan, root, ROUNDS), initial_state(sim, plan, root)
    compiled = time.perf_counter() - start
    state, *_ = segment(state, ROUNDS)  # warm-up
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        state, *_ = segment(state, ROUNDS)
        seconds.append((time.perf_counter() - start) / ROUNDS)
    line = {
        "workload": "W8" if (clients, cohort) == W8 else "clients",
        "clients": clients,
        "cohort": cohort,
        "seconds_per_round": float(np.median(seconds)),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "compile_seconds": compiled,
        "client_state_mb": trees.nbytes(state.clients) / 1e6,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "plan": str(plan),
    }
    print(json.dumps(line), flush=True)


def simulation(clients: int, cohort: int) -> Simulation:
    """Returns a local training of two SGD steps a round on batches of 4."""
    local = Local(1, 4, optax.sgd, lambda round: jnp.float32(0.05))
    chain = UplinkSettings().build()
    data = noise(clients)
    sample = Uniform(cohort).build(Population(data.sizes))
    return Simulation(personal(), FedAvg().build(), chain, sample, local, data)


def noise(clients: int) -> ClientData:
    """Returns the data of the clients, 8 images each."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8 * clients, 8, 8, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 8 * clients, dtype=np.int32)
    return resident({"image": images, "label": labels}, np.split(np.arange(8 * clients), clients))


def personal() -> Task:
    """Returns the task of a linear classifier that is the sum of a shared one and the client's own."""

    def init(key: jax.Array) -> Model:
        linear = {"weights": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
        return Model({"shared": linear, "own": linear}, {})

    def predict(params, carry, batch):
        pixels = batch["image"].reshape(-1, 64).astype(jnp.float32) / 255
        linear = trees.add(params["shared"], params["own"])
        return pixels @ linear["weights"] + linear["bias"][None]

    def loss(params, carry, batch, key):
        each = optax.softmax_cross_entropy_with_integer_labels(predict(params, carry, batch), batch["label"])
        total, weight = jnp.sum(each * batch["weight"]), batch["weight"].sum()
        return total / jnp.maximum(weight, 1), (carry, (total, weight))

    def shared(model: Model) -> Model:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[1].key == "shared", model)

    def judged(params, carry, batch):
        return loss(params, carry, batch, None)[1][1]

    return Task(
        init=init,
        phases=(Phase(loss, trainable=everything),),
        evaluate=judged,
        predict=predict,
        shared=shared,
        summary=lambda sums: {"nll": float(sums[0] / sums[1])},
        score=lambda sums: -sums[0] / sums[1],
    )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
