"""Local steps of a task as the engine takes them, for comparison with loops written by hand; and networks for them.

The networks are of a few numbers, so that what is compared is the order of steps and not the patience of a compiler,
but they have what real ones have: dropout by key, and statistics of a batch that training records and use applies.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import ClientStart, Local, init_optimizers, local_step
from fedjax_mri.nets.functional import Net
from fedjax_mri.tasks.task import Model, Task

SIDE = 8


def images(seed: int, count: int = 2) -> np.ndarray:
    """Two batches [2, B, 8, 8, 1] of noise in 0..1."""
    return np.random.default_rng(seed).uniform(size=(2, count, SIDE, SIDE, 1)).astype(np.float32)


def numbers(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """A number by each name, near 1."""
    return dict(zip(names, 1 + 0.3 * jax.random.normal(key, (len(names),))))


def centred(carry, x, train):
    mean = x.mean() if train else carry["mean"]
    return x - mean, {"mean": 0.9 * carry["mean"] + 0.1 * mean} if train else carry


def translator() -> Net:
    def apply(params, carry, x, weight=None, train=False, key=None):
        x, carry = centred(carry, x, train)
        y = jnp.tanh(params["first"] * x + params["shift"])
        y = y if key is None else 2 * y * jax.random.bernoulli(key, 0.5, y.shape).astype(y.dtype)
        return jnp.tanh(params["last"] * y), carry

    return Net(lambda key: (numbers(key, "first", "shift", "last"), {"mean": jnp.float32(0)}), apply)


def critic() -> Net:
    """Scores of 2 x 2 patches, by the products and squares of all channels."""

    def apply(params, carry, x, weight=None, train=False):
        x, carry = centred(carry, x, train)
        seen = params["product"] * jnp.prod(x, -1, keepdims=True) + params["square"] * jnp.square(x - params["shift"])
        return seen.sum(-1).reshape(len(x), SIDE // 4, 4, SIDE // 4, 4).mean((2, 4))[..., None], carry

    return Net(lambda key: (numbers(key, "product", "square", "shift"), {"mean": jnp.float32(0)}), apply)


def stepped(task: Task, model: Model, optimizer, batches: list[dict], keys: list[jax.Array]) -> Model:
    """The model after a step on each batch."""
    algorithm, local = FedAvg().build(), Local(1, 1, lambda _: optimizer, lambda _: 0)
    none = jnp.float32(0)

    @jax.jit
    def step(model, states, batch, key):
        start = ClientStart(model, (), ())
        return local_step(task, algorithm, local, start, model, states, none, batch, none, key)[:2]

    with jax.numpy_dtype_promotion("standard"):
        states = init_optimizers(task, local, model, none)
    for batch, key in zip(batches, keys):
        model, states = step(model, states, batch, key)
    return model


class Player:
    """Parameters and the optimiser that moves them."""

    def __init__(self, params, optimizer) -> None:
        self.params, self.optimizer, self.state = params, optimizer, optimizer.init(params)
        self.updated = jax.jit(optimizer.update)

    def move(self, grads) -> None:
        with jax.numpy_dtype_promotion("standard"):
            updates, self.state = self.updated(grads, self.state, self.params)
        self.params = optax.apply_updates(self.params, updates)


def assert_close(actual, wanted) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, wanted)
