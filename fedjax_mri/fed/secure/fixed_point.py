"""Sums of updates in fixed point, by integers modulo 2^32: exact, in any order, with or without masks.

What one client adds to the accumulator of a reduction that only sums is what it sends. It is written as a number of
steps of range / 2^bits in 32 bits. The sum of K such words cannot overflow, since K 2^bits < 2^31. The sum is within
K / 2 steps of that of the floats. Where stages bound the norm of an update, numbers are rounded towards zero, so that
the bound, on which a privacy guarantee may rest, holds for what is sent too; the error is then below K steps.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import checks, keys, trees
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.secure import masks
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    Notes,
    PyTree,
    Reduce,
    RoundContext,
    Sender,
    SimulationParts,
    Stage,
    State,
    Update,
    Uplink,
    refuse_auxiliary,
    sum_over_devices,
)
from fedjax_mri.fed.uplink.stages.clip import NonfiniteCount, zeroed_unless

WORD_BITS = 31  # of a word beside its sign


class Grid(NamedTuple):
    """The numbers that clients send: from -range to range in steps of range / 2^bits."""

    range: float | jax.Array
    bits: int
    cohort_size: int  # the most words in a sum
    rounding: Callable[[jax.Array], jax.Array]  # to whole numbers


class Total(NamedTuple):
    """What has been added so far."""

    words: PyTree  # uint32, in place of each leaf of the accumulator of the reduction that sums
    sent: jax.Array  # uint32 [K], 1 at places from which something came
    key: PyTree = ()  # of the round's masks, while clients send


def check_grid(range: float, bits: int) -> None:
    """Raises UserError unless the range is a positive number and the bits are 1 to 30, or 0."""
    checks.positive("secure.range", range)
    if is_concrete(bits) and not 0 <= bits < WORD_BITS:
        raise UserError(
            f"secure.bits={bits}: must be 1 to {WORD_BITS - 1}, or 0 for as many as the cohort leaves room for"
        )


def bits_for(cohort_size: int) -> int:
    """Returns the most bits with which the sum of so many words cannot overflow."""
    return (((1 << WORD_BITS) - 1) // cohort_size).bit_length() - 1


def secured(uplink: Uplink, cohort_size: int, sizes: np.ndarray, range: float, bits: int, masked: bool) -> Uplink:
    """Returns `uplink` with sums in fixed point, of weights as shares of that of the largest client.

    Raises UserError if its server needs single updates, or the sum over `cohort_size` clients could overflow.
    """
    refuse_single_updates(uplink)
    most = bits_for(cohort_size)
    if bits > most:
        raise UserError(
            f"secure.bits={bits}: the sum of {cohort_size} clients could overflow 32 bits; choose {most} or fewer, or 0"
        )
    bound = uplink.stages.sensitivity(math.inf)
    bounded = not is_concrete(bound) or math.isfinite(bound)
    limit = bound if bounded else range  # a private sum must see its own bound: its noise is in units of it
    grid = Grid(limit, bits or most, cohort_size, jnp.trunc if bounded else jnp.round)
    sums = fixed_point(uplink.reduce, grid, masked)
    largest = jnp.max(uplink.weigh(jnp.asarray(sizes, jnp.float32)))
    largest = jnp.where(largest > 0, largest, 1.0)  # no client may have an example
    share = lambda examples: uplink.weigh(examples) / largest  # noqa: E731
    return uplink._replace(weigh=share, stages=chain(uplink.stages, bounded_values(limit)), reduce=sums)


def refuse_single_updates(uplink: Uplink) -> None:
    """Raises UserError if the server of an uplink needs more than the sum of what clients send."""
    if not uplink.stages.linear:
        raise UserError(
            f"secure: the server cannot undo {uplink.stages.name} of --fed.uplink.stages on a sum; choose stages whose "
            "values can be summed as they are sent, such as clip, or randk with common=true, or --fed.secure off"
        )
    if not uplink.reduce.linear:
        raise UserError(
            f"secure: the reduction {uplink.reduce.name} needs single updates, and the server has their sum alone; "
            "choose --fed.uplink.reduce mean, or --fed.secure off"
        )
    if uplink.reduce.merge is not sum_over_devices:
        raise UserError(
            f"secure: the reduction {uplink.reduce.name} keeps more than a sum; choose --fed.uplink.reduce mean, whose "
            "sums of whole numbers do not depend on the order either"
        )


def bounded_values(limit: float | jax.Array) -> Stage:
    """Returns the stage that clips each value of an update to [-limit, limit], and its weight to 1.

    An update that is not finite becomes zero. Clipped values and such updates are counted.
    """

    def client(update: Update, state: NonfiniteCount, sender: Sender) -> tuple[Update, State, Notes]:
        finite = trees.is_finite(update.delta)
        outside = sum(
            (jnp.sum(jnp.abs(leaf) > limit) for leaf in jax.tree.leaves(update.delta)),
            (update.weight > 1).astype(jnp.int32),
        )
        clipped = jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), update.delta)
        delta, state, nonfinite = zeroed_unless(finite, clipped, state)
        notes = {"clipped": jnp.where(finite, outside.astype(jnp.float32), 0.0), "nonfinite": nonfinite}
        sent = update._replace(delta=delta, weight=jnp.minimum(update.weight, 1.0))
        return sent, state, notes

    return Stage(
        "secure",
        init_client=lambda sent: NonfiniteCount(jnp.float32(0)),
        client=client,
        sensitivity=lambda bound: bound,
        linear=True,
        check_compatible=refuse_what_has_no_range,
    )


def refuse_what_has_no_range(parts: SimulationParts) -> None:
    """Raises UserError if clients send what has no range, or the algorithm or the sampler needs single updates."""
    refuse_auxiliary(parts, "secure", "for which there is no range")
    if parts.algorithm.member is not None:
        raise UserError("secure: an ensemble needs each client's model; choose another algorithm, or --fed.secure off")
    if parts.sampler.law == "replacement":
        raise UserError("secure: a client drawn twice sends twice its weight; choose --sampling.replace false")
    if parts.sampler.max_staleness:
        raise UserError(
            "secure: clients agree on masks before a round, so that rounds cannot overlap; choose another sampler"
        )


def fixed_point(base: Reduce, grid: Grid, masked: bool) -> Reduce:
    """Returns the reduction that does what `base` does, on a sum of words. `base` must only add, and be linear."""

    def zero(sent: Update, cohort_size: int) -> Total:
        words = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.uint32), base.zero(sent, cohort_size))
        return Total(words, jnp.zeros(grid.cohort_size, jnp.uint32))

    def begin(total: Total, root: jax.Array, round: jax.Array) -> Total:
        if not masked:
            return total
        key = keys.round_purpose(jax.random.fold_in(root, round), keys.RoundPurpose.REDUCE)
        return total._replace(key=key)  # the one that `finish` will have

    def add(total: Total, updates: Update, places: jax.Array) -> Total:
        words = jax.vmap(partial(words_of, base, grid))(updates, places)
        sent = places >= 0
        if masked:
            own = jax.vmap(lambda place: masks.mask(total.key, place, grid.cohort_size, total.words))(places)
            words = trees.add(words, trees.select(sent, own, trees.zeros_like(own)))
        sums = jax.tree.map(lambda before, each: before + each.sum(0, dtype=jnp.uint32), total.words, words)
        marked = total.sent.at[jnp.where(sent, places, grid.cohort_size)].set(jnp.uint32(1), mode="drop")
        return total._replace(words=sums, sent=marked)

    def merge(total: Total, axis: str) -> Total:
        return Total(*sum_over_devices((total.words, total.sent), axis))

    def finish(total: Total, state: State, at: RoundContext) -> tuple[Aggregate, State]:
        words = total.words
        if masked:
            words = trees.subtract(words, masks.left_in_sum(at.key, total.sent > 0, words))
        aggregate, state = base.finish(jax.tree.map(partial(value_of, grid), words), state, at)
        return aggregate._replace(delta=trees.scale(grid.range, aggregate.delta)), state

    name = f"{'masked' if masked else 'integer'} {base.name}"
    return Reduce(
        name,
        zero,
        add,
        finish,
        init=base.init,
        begin=begin,
        merge=merge,
        linear=True,
        check_compatible=base.check_compatible,
    )


def words_of(base: Reduce, grid: Grid, update: Update, place: jax.Array) -> PyTree:
    """Returns the words that one client sends, uint32: what it adds to the accumulator of `base`, in steps.

    Zeros where the place is -1. What is added is at most 1 in magnitude: deltas are divided by the range, and weights
    are shares.
    """
    scaled = update._replace(delta=trees.scale(1.0 / grid.range, update.delta))
    one = jax.tree.map(lambda leaf: leaf[None], scaled)
    added = base.add(base.zero(scaled, grid.cohort_size), one, place[None])
    steps = lambda leaf: grid.rounding(jnp.clip(leaf, -1.0, 1.0) * 2.0**grid.bits).astype(jnp.int32)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.lax.bitcast_convert_type(steps(leaf), jnp.uint32), added)


def value_of(grid: Grid, words: jax.Array) -> jax.Array:
    """Returns the sum that `words` uint32 [...] stand for, float32 [...]."""
    return jax.lax.bitcast_convert_type(words, jnp.int32).astype(jnp.float32) * 2.0**-grid.bits
