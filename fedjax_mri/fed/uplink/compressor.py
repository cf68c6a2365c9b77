"""The contract of a compressor, and what several of them share."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.uplink.contract import PyTree
from fedjax_mri.fed.uplink.fields import Field, Floats, Message


class Compressor(NamedTuple):
    """A way to write a tree of numbers in fewer bits. A message has the same size whatever is in it."""

    name: str
    encode: Callable[[PyTree, jax.Array, jax.Array], Message]  # (tree, the sender's key, round int32 []) -> message
    decode: Callable[[Message, PyTree], PyTree]  # (message, shapes of the tree) -> float32 tree
    fields: Callable[[PyTree], tuple[Field, ...]]  # shapes of the tree -> how each array of a message is written
    contraction: bool = False  # whether what it leaves out is never longer than what it is given
    linear: bool = False  # whether the messages of a round hold the same coordinates, so that they can be summed
    sparse: bool = False  # whether clients send different coordinates and zeros in place of all others


def on_vector(
    name: str,
    encode: Callable[[jax.Array, jax.Array, jax.Array], Message],
    decode: Callable[[Message, int], jax.Array],
    fields: Callable[[int], tuple[Field, ...]],
    contraction: bool = False,
    linear: bool = False,
    sparse: bool = False,
) -> Compressor:
    """Returns the compressor that writes all values as one float32 [d]; `decode` and `fields` are given d."""
    return Compressor(
        name,
        lambda tree, key, round: encode(flat(tree), key, round),
        lambda message, like: unflat(decode(message, trees.count(like)), like),
        lambda like: fields(trees.count(like)),
        contraction,
        linear,
        sparse,
    )


def contractive(compressor: Compressor) -> Compressor:
    """Returns a compressor for differences that come again: what it leaves out is never longer than what it is given.

    A message of one that is no contraction is multiplied by the factor that leaves out least, which takes four bytes.
    Without it, noise larger than the difference would add up from round to round.
    """
    if compressor.contraction:
        return compressor

    def encode(tree: PyTree, key: jax.Array, round: jax.Array) -> Message:
        message = compressor.encode(tree, key, round)
        whole, said = flat(tree), flat(compressor.decode(message, tree))
        return *message, jnp.vdot(whole, said) / jnp.maximum(jnp.vdot(said, said), 1e-30)

    def decode(message: Message, like: PyTree) -> PyTree:
        return trees.scale(message[-1].reshape(()), compressor.decode(message[:-1], like))

    return compressor._replace(
        encode=encode, decode=decode, fields=lambda like: (*compressor.fields(like), Floats(1)), contraction=True
    )


def flat(tree: PyTree) -> jax.Array:
    """Returns all values of a tree as float32 [d]."""
    return jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(tree)])


def unflat(vector: jax.Array, like: PyTree) -> PyTree:
    """Returns the tree with the shapes of `like` of whose values `flat` makes `vector`, in float32."""
    leaves, structure = jax.tree.flatten(like)
    starts = [sum(leaf.size for leaf in leaves[:number]) for number in range(len(leaves))]
    parts = [vector[start : start + leaf.size].reshape(leaf.shape) for start, leaf in zip(starts, leaves)]
    return jax.tree.unflatten(structure, parts)


def buckets(vector: jax.Array, size: int) -> jax.Array:
    """Returns `vector` float32 [d] in rows of `size`, the last one padded with zeros; with size 0, all in one row."""
    size = size or len(vector)
    return jnp.pad(vector, (0, -len(vector) % size)).reshape(-1, size)


def bucket_count(values: int, size: int) -> int:
    """Returns how many rows `buckets` makes of so many values."""
    return -(-values // size) if size else 1


def share_of(share: float, values: int) -> int:
    """Returns the number of values in a share of them: at least one."""
    return max(1, round(share * values))


def message_bytes(compressor: Compressor, like: PyTree) -> int:
    """Returns the bytes of a message on a tree with the shapes of `like`; 0 if it has no values."""
    return -(-sum(field.bits for field in compressor.fields(like)) // 8) if jax.tree.leaves(like) else 0


def decoded(compressor: Compressor, tree: PyTree, key: jax.Array, round: jax.Array) -> PyTree:
    """Returns what a message on `tree` says, float32 in its shapes."""
    return compressor.decode(compressor.encode(tree, key, round), tree)
