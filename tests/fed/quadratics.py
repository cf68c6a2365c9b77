"""Clients with a quadratic each: what an algorithm comes to is known in closed form."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from simulations import simulation

from fedjax_mri.data.contract import ClientData, Test
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithms.fednova import FedNova
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, initial_state
from fedjax_mri.fed.sampling import Everyone, Population, Sampler, Uniform, cohort_of
from fedjax_mri.fed.uplink.weigh import by_examples
from fedjax_mri.tasks.task import Model, Phase, Task, everything, mean

PARTS = {"body": 2, "norm": 1, "logits": 1}  # named as the networks' are, so that default patterns match
D = sum(PARTS.values())


class Tally(NamedTuple):
    nll: jax.Array
    weight: jax.Array


def task() -> Task:
    """An example holds A and b, its loss is 1/2 (x - b)' A (x - b); the running mean of b is a statistic."""

    def init(key: jax.Array) -> Model:
        return Model(apart(jax.random.normal(key, (D,))), {"norm": jnp.zeros(D)})

    def loss(params, carry, batch, key):
        gap = together(params)[None] - batch["b"]
        costs = 0.5 * jnp.einsum("ni,nij,nj->n", gap, batch["A"], gap)
        seen = jnp.sum(batch["b"] * batch["weight"][:, None], 0) / jnp.maximum(batch["weight"].sum(), 1.0)
        tallied = Tally(jnp.sum(costs * batch["weight"]), batch["weight"].sum())
        return mean(costs, batch["weight"]), ({"norm": 0.9 * carry["norm"] + 0.1 * seen}, tallied)

    def predict(params, carry, batch):
        return jax.nn.softmax(together(params)[None] * batch["b"])

    def tally(chances, batch):
        right = jnp.take_along_axis(chances, batch["label"][:, None], 1)[:, 0]
        return Tally(-jnp.sum(jnp.log(right) * batch["weight"]), batch["weight"].sum())

    def evaluate(params, carry, batch):
        return tally(predict(params, carry, batch), batch)

    def summary(sums: Tally) -> dict[str, float]:
        return {"nll": float(sums.nll / sums.weight)}

    def score(sums: Tally) -> jax.Array:
        return -sums.nll / sums.weight

    return Task(init, (Phase(loss, everything),), evaluate, predict, everything, summary, score, tally=tally)


def together(params: dict) -> jax.Array:
    return jnp.concatenate([params[name] for name in PARTS])


def apart(x: jax.Array) -> dict:
    return dict(zip(PARTS, jnp.split(x, np.cumsum(list(PARTS.values()))[:-1])))


def matrices(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A [count, D, D] with eigenvalues in 0.5..2, b [count, D], float64."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(count, D, D)))[0]
    return np.einsum("nij,nj,nkj->nik", axes, rng.uniform(0.5, 2, (count, D)), axes), rng.normal(size=(count, D))


def clients(A: np.ndarray, b: np.ndarray, sizes: np.ndarray) -> ClientData:
    """Resident clients of `sizes` int [N] from one A, b for each of all examples."""
    arrays = {"A": A.astype(np.float32), "b": b.astype(np.float32), "label": np.arange(len(b), dtype=np.int32) % D}
    return resident(arrays, np.split(np.arange(len(b)), np.cumsum(sizes)[:-1]))


ROOT = jax.random.key(3)
RATE = 0.1
ALONE = Plan(devices=1, lanes=4).resolve()
QUADRATIC = task()


def with_algorithm(settings, sim: Simulation) -> Simulation:
    algorithm = settings.build()
    return sim._replace(algorithm=algorithm, task=algorithm.task(sim.task))


def sgd(epochs: int, batch: int, momentum: float | None = None) -> Local:
    return Local(epochs, batch, with_momentum(momentum), lambda round: jnp.float32(RATE))


@functools.cache  # and with it what the plain loop compiles
def with_momentum(momentum: float | None) -> Callable:
    return lambda rate: optax.sgd(rate, momentum)


def run(sim: Simulation, rounds: int, plan: Plan = ALONE) -> State:
    return segments.build(sim, plan, ROOT, rounds)(initial_state(sim, plan, ROOT), rounds)[0]


SIZES = np.array([5, 0, 9, 3, 1, 6], np.int32)


@jax.jit  # once for all algorithms, which call it by hand
def some_late_some_twice(key: jax.Array, round: jax.Array):
    client = Uniform(4).build(Population(SIZES)).draw(key, round).client
    return cohort_of(client, times=1.0 + (client % 2).astype(jnp.float32), staleness=client % 3)


def ragged(settings) -> Simulation:
    """Six clients of 0 to 9 examples, no two alike, batches of 4; cohorts of four, some late, some drawn twice."""
    A, b = matrices(SIZES.sum())
    b += np.repeat(np.arange(len(SIZES)), SIZES)[:, None] / 5
    momentum = getattr(settings, "momentum", 0.0) if isinstance(settings, FedNova) else None
    sampler = Sampler(some_late_some_twice, "other", 4 / 6)
    sim = simulation(QUADRATIC, clients(A, b, SIZES), local=sgd(2, 4, momentum), sampler=sampler)
    return with_algorithm(settings, sim)


UNEQUAL = np.array([1, 2, 3, 6])
EPOCHS = 5
A, B = matrices(len(UNEQUAL), 1)
P = UNEQUAL / UNEQUAL.sum()


def optimum(p: np.ndarray = P) -> np.ndarray:
    return np.linalg.solve(np.einsum("k,kij->ij", p, A), np.einsum("k,kij,kj->i", p, A, B))


def balance(p: np.ndarray, M: np.ndarray) -> np.ndarray:
    """Where sum p_k M_k (b_k - x) = 0, if M_k (b_k - x) is what client k moves from x."""
    return np.linalg.solve(np.einsum("k,kij->ij", p, M), np.einsum("k,kij,kj->i", p, M, B))


def left(steps: int, mu: float = 0.0, rate: float = RATE) -> np.ndarray:
    """(I - rate (A_k + mu I))^steps, [K, D, D]: what is left of a gap after so many steps."""
    return np.stack([np.linalg.matrix_power(np.eye(len(a)) - rate * (a + mu * np.eye(len(a))), steps) for a in A])


def four(settings, batch: int = 6, cohort: int = 4, weigh: Callable = by_examples) -> Simulation:
    """Four clients of 1, 2, 3, 6 examples that are all the same: each step is down the client's whole gradient."""
    data = clients(np.repeat(A, UNEQUAL, 0), np.repeat(B, UNEQUAL, 0), UNEQUAL)
    sampler = (Everyone() if cohort == 4 else Uniform(cohort)).build(Population(data.sizes))
    sim = simulation(QUADRATIC, data, weigh=weigh, local=sgd(EPOCHS, batch), sampler=sampler)
    return with_algorithm(settings, sim)


def reached(sim: Simulation, rounds: int = 400) -> np.ndarray:
    return np.asarray(together(run(sim, rounds).server.model.params))


@functools.cache
def three_rounds(settings) -> State:
    return run(four(settings, batch=2, cohort=3), 3)


def noise(count: int, sites: int) -> Test:
    a, b = matrices(count * sites, 9)
    return Test(clients(a, b, np.full(sites, count)), np.arange(sites, dtype=np.int32))
