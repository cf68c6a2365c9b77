"""Which examples a client reads in each local step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.data.contract import Batch
from fedjax_mri.fed.client.shuffle import shuffled

Read = Callable[[jax.Array], Batch]  # indices int32 [n] of a client's examples -> what they hold


class Batches(NamedTuple):
    """How the examples of a client are divided into the batches of its local steps."""

    steps: Callable[[Any], Any]  # examples int32 [...] -> local steps in a round int32 [...]; NumPy or JAX
    # (key of the client's shuffles in this round, step int32 [], client int32 [], its examples int32 [], what reads
    # them) -> the examples int32 [B] of the step, and fields [B, ...] of its batch. Field "weight" is 1 for an example
    # and 0 for padding, whose indices may pass the end.
    draw: Callable[[jax.Array, jax.Array, jax.Array, jax.Array, Read], tuple[jax.Array, Batch]]


def shuffled_epochs(epochs: int, batch: int) -> Batches:
    """Returns batches in which each epoch reads each example once, in a new random order.

    The last batch of an epoch may hold fewer than `batch` examples.
    """

    def steps(sizes: Any) -> Any:
        return epochs * ((sizes + batch - 1) // batch)

    def draw(
        key: jax.Array, step: jax.Array, client: jax.Array, size: jax.Array, read: Read
    ) -> tuple[jax.Array, Batch]:
        steps = jnp.maximum((size + batch - 1) // batch, 1)
        positions = (step % steps) * batch + jnp.arange(batch, dtype=jnp.int32)
        order = jax.random.fold_in(key, step // steps)
        return shuffled(order, positions, size), {"weight": (positions < size).astype(jnp.float32)}

    return Batches(steps, draw)
