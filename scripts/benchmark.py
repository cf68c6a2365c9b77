"""Times this engine on a named workload; needs only jax, flax, optax and numpy. Prints one line of JSON.

    python scripts/benchmark.py --workload W1 --rounds 5 --lanes 1 --conv direct

Workloads are in workloads.py; W5 is configs/quickstart.py. Any field of the plan is a flag, and fields that are left
out are measured first. All data are synthetic.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from lenet import LeNetSettings
from workloads import QUICKSTART, WORKLOADS, Workload, arrays, kernel_shapes, pairs, weights

sys.path.append(str(pathlib.Path(__file__).parents[1]))

from fedjax_mri.core import trees
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.data.resident import resident, specimen
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import ClientStart, Local, init_optimizers, local_step, read_batch, step_counts
from fedjax_mri.fed.engine import auto, segments, work
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_one_client, initial_state
from fedjax_mri.fed.privacy.off import Off as NotPrivate
from fedjax_mri.fed.privacy.patient import Patient
from fedjax_mri.fed.sampling import Everyone, Population, Uniform
from fedjax_mri.fed.secure.integer import Integer
from fedjax_mri.fed.secure.masked import Masked
from fedjax_mri.fed.secure.off import Off
from fedjax_mri.fed.uplink.reductions.exact import Exact
from fedjax_mri.fed.uplink.reductions.mean import Mean
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.tasks import translation
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN
from fedjax_mri.tasks.task import Model, Task

REDUCTIONS = {"mean": Mean, "exact": Exact}
SECURE = {"off": Off, "integer": Integer, "masked": Masked}
AS_USUAL, NOT_SECURE = Mean(), Off()


def main() -> None:
    words = parser().parse_args()
    prepare_jax()
    plan = Plan(**{one.name: getattr(words, one.name) for one in dataclasses.fields(Plan)})
    print(json.dumps(measured(words.workload, plan, words.rounds, words.reduce, words.secure)))


def parser() -> argparse.ArgumentParser:
    """Returns the arguments: the workload, the number of rounds, and the plan."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--workload", choices=[*WORKLOADS, *QUICKSTART], default="W1")
    words.add_argument("--rounds", type=int, default=5, help="rounds to time; the first is reported separately")
    words.add_argument("--reduce", choices=list(REDUCTIONS), default="mean", help="how updates are added; not of W5")
    words.add_argument("--secure", choices=list(SECURE), default="off", help="secure sums; not of W5")
    for one in dataclasses.fields(Plan):
        kind = (lambda text: text == "True") if isinstance(one.default, bool) else type(one.default)
        words.add_argument(f"--{one.name}", type=kind, default=one.default)
    return words


def prepare_jax() -> None:
    """One host device a core, where the processor is the device."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def measured(name: str, plan: Plan, rounds: int, reduce: str = "mean", secure: str = "off") -> dict[str, Any]:
    """Returns all figures of one workload under one plan."""
    assemble, root = simulations(name, REDUCTIONS[reduce](), SECURE[secure]()), jax.random.key(0)
    with tempfile.TemporaryDirectory() as nothing_remembered:
        chosen, plan_s = timed(lambda: auto.choose_plan(plan, assemble, pathlib.Path(nothing_remembered), say))
    sim = assemble(chosen)
    segment, compile_s = timed(lambda: segments.build(sim, chosen, root, 1))
    state, seconds, works = initial_state(sim, chosen, root), [], []
    for _ in range(rounds):
        (state, work, waited), took = timed(functools.partial(segment, state, 1))
        seconds.append(took)
        works.append(jax.tree.map(lambda x: np.asarray(x).sum(0), work))
    return {
        "peer": "fedjax_mri",
        "workload": name,
        "plan_s": plan_s,
        "compile_s": compile_s,
        "first_round_s": seconds[0],
        "round_s": seconds[1:],
        **rates(np.array(seconds[1:] or seconds), works[1:] or works),
        **efficiency(assemble, chosen, seconds[1:] or seconds, works[1:] or works),
        "waited_s": waited,
        "peak_mb": peak_mb(),
        "plan": dataclasses.asdict(chosen),
        "device": f"{chosen.devices} x {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "plan": auto.describe_plan(chosen)},
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the result of `work`, and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def simulations(name: str, reduce: Any = AS_USUAL, secure: Any = NOT_SECURE) -> Callable[[Plan], Simulation]:
    """The workload under any plan; its data are made once."""
    if name in QUICKSTART:
        return quickstart(pathlib.Path(__file__).parents[1] / QUICKSTART[name])
    workload = WORKLOADS[name]
    if workload.model == "linear":
        from clients_study import simulation

        return lambda plan: simulation(len(workload.sizes), workload.cohort)
    fields = dict(zip(("ct", "mr"), map(unit, pairs(workload)))) if workload.model == "cyclegan" else labelled(workload)
    data = resident(fields, np.split(np.arange(workload.images), workload.offsets[1:]))
    adam = translation.adam if workload.model == "cyclegan" else optax.sgd
    local = Local(workload.epochs, workload.batch, adam, lambda round: jnp.float32(workload.rate))
    sample = (Uniform(workload.cohort) if workload.cohort else Everyone()).build(Population(workload.sizes))
    settings = Patient(unit="image", noise=workload.noise) if workload.noise else NotPrivate()
    chain, local = settings.build(UplinkSettings(reduce=reduce), local, workload.noise, Population(workload.sizes))
    chain = secure.build(chain, sample.cohort_size(), workload.sizes)
    return lambda plan: Simulation(
        task(workload, Compute(plan.conv, plan.precision, plan.remat)), FedAvg().build(), chain, sample, local, data
    )


def quickstart(path: pathlib.Path) -> Callable[[Plan], Simulation]:
    from fedjax_mri.run import assemble, config

    settings = config.load(path)[""]
    federation = settings.data.build(settings.seed)
    return functools.partial(assemble.assemble, settings, assemble.describe(federation), federation.train)


def unit(images: np.ndarray) -> np.ndarray:
    """uint8 to 0..1."""
    return images.astype(np.float32) / 255


def labelled(workload: Workload) -> dict[str, np.ndarray]:
    return dict(zip(("image", "label"), arrays(workload)))


def task(workload: Workload, compute: Compute) -> Task:
    """What the workload learns; the CNNs start from the same weights as their peers."""
    classes = 0 if workload.model == "cyclegan" else workload.classes
    described = DataDescription(workload.image, tuple(map(str, range(classes))), len(workload.sizes))
    if workload.model == "cyclegan":
        return CycleGAN(GeneratorSettings(), PatchGANSettings(), window=None).build(described, compute)
    networks = {"cnn": CNNSettings((32, 64), norm="none"), "lenet": LeNetSettings(), "resnet18": ResNetSettings(18)}
    built = Classify(network=networks[workload.model]).build(described, compute)
    if workload.model == "resnet18":
        return built
    params = initial_params(workload)
    return built._replace(init=lambda key: Model(jax.tree.map(jnp.asarray, params), built.init(key).carry))


def initial_params(workload: Workload) -> dict[str, Any]:
    """The weights that all programs start from, named as the parameters of this engine's networks."""
    given = weights(workload)
    layers = {name: {part: given[f"{name}.{part}"] for part in ("kernel", "bias")} for name in kernel_shapes(workload)}
    if workload.model == "lenet":
        return layers
    return {"convs": {0: layers["conv1"], 1: layers["conv2"]}, "logits": layers["dense"]}


def rates(seconds: np.ndarray, works: list[Any]) -> dict[str, float]:
    """What a round amounts to, by the median of their `seconds`."""
    per_second = {
        f"{name}_per_s": float(np.median([float(getattr(work, field)) / s for work, s in zip(works, seconds)]))
        for name, field in (("clients", "clients"), ("images", "examples"), ("steps", "steps"))
    }
    return {"median_s": float(np.median(seconds)), **per_second}


def efficiency(
    assemble: Callable[[Plan], Simulation], plan: Plan, seconds: list[float], works: list[Any]
) -> dict[str, float]:
    """Returns the useful share of the lanes' steps, the best possible one, and the share of the device's peak rate."""
    steps, slots = (sum(float(getattr(work, name)) for work in works) for name in ("steps", "slots"))
    sim = assemble(plan)
    traced = one_step(assemble(dataclasses.replace(plan, conv="gemm", remat=False)))
    flops, peak = work.product_flops(traced.jaxpr.jaxpr), peak_flops(plan)
    rate = flops * steps / sum(seconds)
    return {
        "useful_share": steps / slots,
        "best_useful_share": best_share(sim, plan),
        "passes": slots / (plan.devices * plan.lanes * len(works)),
        "ms_per_step_and_device": 1e3 * sum(seconds) * plan.devices / steps,
        "gflop_per_step": flops / 1e9,
        "update_mb": trees.nbytes(shapes(sim).server.model) / 1e6,
        "gflop_per_s": rate / 1e9,
        "peak_gflop_per_s": peak / 1e9,
        "share_of_peak": rate / peak,
    }


def best_share(sim: Simulation, plan: Plan) -> float:
    """The useful share of the shortest possible makespan for all clients: no schedule can do better."""
    steps = np.asarray(step_counts(sim.local, np.asarray(sim.data.sizes)))
    lanes = plan.devices * plan.lanes
    return float(steps.sum() / (lanes * max(steps.max(), -(-steps.sum() // lanes))))


def one_step(sim: Simulation) -> jax.stages.Traced:
    """One local step of a full batch, traced by itself; resident data count as the batch that is read of them."""

    state, key = shapes(sim), jax.random.key(0)

    def step(state: State, store: Any) -> Any:
        size, rate = jnp.int32(sim.local.batch), jnp.float32(0.1)
        model = trees.join(state.server.model, state.clients.model)
        start = ClientStart(model, state.server, state.clients.state)
        batch = read_batch(sim.data, sim.local, store, jnp.int32(0), size, jnp.int32(0), jnp.int32(0), key)
        optimizers = init_optimizers(sim.task, sim.local, model, rate)
        begun = jnp.float32(0)
        return local_step(sim.task, sim.algorithm, sim.local, start, model, optimizers, rate, batch, begun, key)

    return jax.jit(step).trace(state, specimen(sim.data))


def shapes(sim: Simulation) -> State:
    """The state with one client's in place of N, without values."""
    return jax.eval_shape(functools.partial(init_one_client, sim.task, sim.algorithm, sim.uplink), jax.random.key(0))


def peak_flops(plan: Plan) -> float:
    """Operations a second that the plan's devices reach together on a large product in the plan's precision."""
    side = 1024 if jax.default_backend() == "cpu" else 8192
    dtype = jnp.bfloat16 if plan.precision == "bf16" else jnp.float32
    a = jax.device_put(jnp.ones((plan.devices, side, side), dtype), plan.sharded_over_devices())
    with jax.default_matmul_precision({"tf32": "tensorfloat32", "bf16": "default"}.get(plan.precision, "float32")):
        product = jax.jit(jax.shard_map(jnp.matmul, mesh=plan.mesh(), in_specs=plan.sharded_over_devices().spec,
                                        out_specs=plan.sharded_over_devices().spec)).lower(a, a).compile()  # fmt: skip
    best = min(timed(lambda: jax.block_until_ready(product(a, a)))[1] for _ in range(20))
    return 2.0 * plan.devices * side**3 / best


def peak_mb() -> float:
    """Of the device where it says so, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    unit = 1 if platform.system() == "Darwin" else 1024
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 1e6


if __name__ == "__main__":
    main()
