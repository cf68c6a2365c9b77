"""Compressed updates: what a compressor is, and the stage that applies one, with or without error feedback.

The change of the parameters is compressed. Statistics, such as running variances, and what an algorithm sends besides
travel as they are: noise could make a variance negative, and control variates must agree with the server's sum.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import (
    Facts,
    Notes,
    PyTree,
    Sender,
    ServerRound,
    Stage,
    Update,
    same_bytes,
)
from fedjax_mri.fed.uplink.stages.clip import NonfiniteCount, zeroed_unless
from fedjax_mri.tasks.task import Model

Message = tuple[Any, ...]  # float32 or uint32 arrays of any shape, one for each field
Feedback = Literal["none", "ef", "ef21"]


class Floats(NamedTuple):
    """A field of `size` float32 numbers."""

    size: int

    @property
    def bits(self) -> int:
        """Number of bits in which it is written."""
        return 32 * self.size


class Numbers(NamedTuple):
    """A field of `size` whole numbers of `width` bits each."""

    size: int
    width: int

    @property
    def bits(self) -> int:
        """Number of bits in which it is written."""
        return self.width * self.size


class Subset(NamedTuple):
    """A field of `size` ascending numbers below `below`: a list, or a mark at each number if that is shorter."""

    size: int
    below: int

    @property
    def width(self) -> int:
        """Number of bits of an entry of the list."""
        return width_of(self.below)

    @property
    def bits(self) -> int:
        """Number of bits in which it is written."""
        return min(self.size * self.width, self.below)


Field = Floats | Numbers | Subset


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


def contracted(compressor: Compressor) -> Compressor:
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


def width_of(below: int) -> int:
    """Returns the bits of a whole number from 0 to `below` - 1."""
    return max(1, math.ceil(math.log2(below)))


def message_bytes(compressor: Compressor, like: PyTree) -> int:
    """Returns the bytes of a message on a tree with the shapes of `like`; 0 if it has no values."""
    return -(-sum(field.bits for field in compressor.fields(like)) // 8) if jax.tree.leaves(like) else 0


class Memory(NamedTuple):
    """What a client keeps; absent clients keep theirs."""

    nonfinite: NonfiniteCount
    kept: PyTree  # float32, "ef": what it has not sent yet; "ef21": what the server has of it; "none": ()


def compressed(compressor: Compressor, feedback: Feedback = "none") -> Stage:
    """Returns the stage that sends each client's change as a message of `compressor`.

    "ef" adds what was left out to the client's next change (Seide et al. 2014; Karimireddy et al. 2019, arXiv
    1901.09847). "ef21" sends the difference between the change and what the server has of this client, and the server
    adds it to that (Richtarik et al. 2021, arXiv 2106.05203). A change that is not finite is counted; zeros are sent
    in its place, and what the client keeps stays as it was.
    """

    if feedback != "none":
        compressor = contracted(compressor)

    def init_client(sent: Update) -> Memory:
        kept = () if feedback == "none" else trees.zeros_like(float32_shapes(sent.delta.params))
        return Memory(NonfiniteCount(jnp.float32(0)), kept)

    def client(update: Update, memory: Memory, sender: Sender) -> tuple[Update, Memory, Notes]:
        params = update.delta.params
        if not jax.tree.leaves(params):  # clients share nothing
            return update, memory, {}
        wanted = target(feedback, params, memory.kept)
        arrived = decoded(compressor, wanted, sender.key, sender.round)
        left = trees.subtract(wanted, arrived)
        server = trees.add(memory.kept, arrived) if feedback == "ef21" else arrived
        kept = {"none": (), "ef": left, "ef21": server}[feedback]
        finite = jnp.isfinite(trees.norm(update.delta)) & jnp.isfinite(trees.norm(wanted))
        sent = update.delta._replace(params=jax.tree.map(lambda new, old: new.astype(old.dtype), server, params))
        (delta, aside), count, nonfinite = zeroed_unless(finite, (sent, update.aside), memory.nonfinite)
        error = jnp.square(trees.norm(left) / jnp.maximum(trees.norm(wanted), 1e-12))
        notes = {"error": jnp.where(finite, error, 0.0), "nonfinite": nonfinite}
        return update._replace(delta=delta, aside=aside), Memory(count, trees.select(finite, kept, memory.kept)), notes

    return Stage(
        compressor.name,
        init_client=init_client,
        client=client,
        linear=compressor.linear and feedback != "ef21",
        wire=lambda sent, nbytes: (
            message_bytes(compressor, sent.delta.params) + trees.nbytes((sent.delta.carry, sent.aside))
        ),
        admits=partial(admits, compressor),
    )


def target(feedback: Feedback, params: PyTree, kept: PyTree) -> PyTree:
    """Returns what a client would send if it could send all: float32, in the shapes of `params`."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    if feedback == "none":
        return params
    return trees.add(params, kept) if feedback == "ef" else trees.subtract(params, kept)


def decoded(compressor: Compressor, tree: PyTree, key: jax.Array, round: jax.Array) -> PyTree:
    """Returns what a message on `tree` says, float32 in its shapes."""
    return compressor.decode(compressor.encode(tree, key, round), tree)


def float32_shapes(tree: PyTree) -> PyTree:
    """Returns the shapes of a tree, with dtype float32."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), tree)


def admits(compressor: Compressor, facts: Facts) -> None:
    """Raises UserError if updates are encoded twice, or by a rule that gives zeros for sparse updates."""
    encoders = [stage.name for stage in facts.uplink.stages.parts or () if stage.wire is not same_bytes]
    if len(encoders) > 1:
        raise UserError(f"uplink.stages: {' and '.join(encoders)} each encode the update; choose one of them")
    if compressor.sparse and not facts.uplink.reduce.linear and loses_single_coordinates(facts):
        raise UserError(
            f"uplink.stages {compressor.name}: hospitals send different coordinates, for which the reduction "
            f"{facts.uplink.reduce.name} gives zeros; choose a compressor that sends all, such as drive or scaledsign, "
            "one that sends the same for all, such as randk with common=true, or --fed.uplink.reduce mean"
        )


def loses_single_coordinates(facts: Facts) -> bool:
    """Returns whether the reduction gives zeros when each client of a cohort sends another coordinate, as a median."""
    reduce, places = facts.uplink.reduce, facts.sampler.places()

    @jax.jit
    def reduced() -> jax.Array:
        rows = Update(Model({"w": jnp.eye(places)}, {}), (), jnp.ones(places))
        sent = jax.tree.map(lambda leaf: leaf[0], rows)
        total = reduce.add(reduce.zero(sent, places), rows, jnp.arange(places, dtype=jnp.int32))
        at = ServerRound(jnp.int32(0), jax.random.key(0), jnp.float32(places), jnp.float32(places))
        return reduce.finish(total, reduce.init(sent), at)[0].delta.params["w"]

    return places > 2 and not reduced().any()
