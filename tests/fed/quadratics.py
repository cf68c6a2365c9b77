"""Clients with a quadratic each: what an algorithm comes to is known in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.client_data import ClientData
from fedjax_mri.data.resident import resident
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


def data(A: np.ndarray, b: np.ndarray, sizes: np.ndarray) -> ClientData:
    """Resident clients of `sizes` int [N] from one A, b for each of all examples."""
    arrays = {"A": A.astype(np.float32), "b": b.astype(np.float32), "label": np.arange(len(b), dtype=np.int32) % D}
    return resident(arrays, np.split(np.arange(len(b)), np.cumsum(sizes)[:-1]))
