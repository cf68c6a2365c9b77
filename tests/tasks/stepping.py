"""Local steps of a task as the engine takes them, for comparison with loops written by hand."""

import jax
import jax.numpy as jnp

from fedjax_mri.fed import local
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.local import Local, Start
from fedjax_mri.tasks.task import Model, Task


def stepped(task: Task, model: Model, optimizer, batches: list[dict], keys: list[jax.Array]) -> Model:
    """The model after a step on each batch."""
    algorithm = FedAvg().build()

    @jax.jit
    def step(model, states, batch, key):
        start = Start(model, (), ())
        return local.step(task, algorithm, optimizer, start, model, states, batch, jnp.float32(0), key)[:2]

    with jax.numpy_dtype_promotion("standard"):
        states = local.init_optimizers(task, Local(1, 1, lambda rate: optimizer, lambda _: 0), model, jnp.float32(0))
    for batch, key in zip(batches, keys):
        model, states = step(model, states, batch, key)
    return model


def kernels(tree) -> dict[str, jax.Array]:
    """Leaves but for biases: a norm takes those out again, and Adam makes full steps of their gradient's rounding."""
    named = ((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
    return {name: leaf for name, leaf in named if "bias" not in name}
