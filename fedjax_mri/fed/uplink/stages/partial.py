"""Partial sending: a part of the update in each round, the same number of bytes in every round.

The virtual clock must know the bytes of an update before it is made. So the layers that changed most are sent up to a
budget, in place of all those that changed by more than a threshold.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive_share
from fedjax_mri.fed.uplink.compress import Feedback, compressed
from fedjax_mri.fed.uplink.compressor import Compressor, flat, on_vector, share_of, unflat
from fedjax_mri.fed.uplink.contract import PyTree, Stage
from fedjax_mri.fed.uplink.fields import Field, Floats, Integers, Message, width_of


@dataclass(frozen=True)
class Partial:
    """Settings of partial sending: the part whose turn it is, or the layers that changed most."""

    share: float = 0.25  # of the values that are sent
    by: Literal["turn", "change"] = "turn"  # "turn": the same for all clients, so that a secure sum can be taken
    feedback: Feedback = "ef"

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor(), self.feedback)

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError unless 0 < share <= 1."""
        positive_share("uplink.stages partial: share", self.share)
        if self.by == "change":
            return Compressor("partial", self._encode_changed, _decode_changed, self._fields_changed, True, sparse=True)
        return on_vector("partial", self._encode, _decode, self._fields, True, linear=True)

    def _encode(self, vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
        count = share_of(self.share, len(vector))
        start = (round % -(-len(vector) // count)).astype(jnp.uint32) * jnp.uint32(count)
        return start, vector[_window(start, count, len(vector))]

    def _fields(self, values: int) -> tuple[Field, ...]:
        return Integers(1, 32), Floats(share_of(self.share, values))

    def _encode_changed(self, tree: PyTree, key: jax.Array, round: jax.Array) -> Message:
        changes = jnp.stack([jnp.sqrt(jnp.mean(jnp.square(leaf))) for leaf in jax.tree.leaves(tree)])
        order = jnp.argsort(-changes).astype(jnp.uint32)
        return order, flat(tree)[_in_order(order, tree)[: share_of(self.share, trees.count(tree))]]

    def _fields_changed(self, like: PyTree) -> tuple[Field, ...]:
        layers = len(jax.tree.leaves(like))
        return Integers(layers, width_of(layers)), Floats(share_of(self.share, trees.count(like)))


def _decode(message: Message, values: int) -> jax.Array:
    return jnp.zeros(values).at[_window(message[0].reshape(()), message[1].size, values)].set(message[1])


def _decode_changed(message: Message, like: PyTree) -> PyTree:
    order, sent = message
    return unflat(jnp.zeros(trees.count(like)).at[_in_order(order, like)[: sent.size]].set(sent), like)


def _window(start: jax.Array, count: int, values: int) -> jax.Array:
    """Returns `count` places from `start` on; after the last value comes the first."""
    return (start + jnp.arange(count, dtype=jnp.uint32)) % values


def _in_order(order: jax.Array, like: PyTree) -> jax.Array:
    """Returns the places of all values, those of the first layer of `order` first."""
    ranks = jnp.argsort(order)
    of_values = [jnp.broadcast_to(rank, leaf.size) for rank, leaf in zip(ranks, jax.tree.leaves(like))]
    return jnp.argsort(jnp.concatenate(of_values), stable=True)
