"""Randomness by counters: every draw is named by round, client and purpose, never by a chunk, lane or device."""

from enum import IntEnum

import jax


class Purpose(IntEnum):
    """What a key is for. Two purposes never share a key, so that changing one draw leaves the others alone."""

    INIT = 0
    SAMPLE = 1
    SHUFFLE = 2
    STEP = 3
    UPLINK = 4
    SERVER = 5
    CONDITIONS = 6


def purpose(key: jax.Array, name: Purpose) -> jax.Array:
    """The key of one purpose."""
    return jax.random.fold_in(key, int(name))


def each(key: jax.Array, names: jax.Array) -> jax.Array:
    """A key for each of `names` int32 [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, names)


def client(root: jax.Array, round: jax.Array, client: jax.Array) -> jax.Array:
    """The key of one client in one round; clients count from 0, the round's own draws use no client."""
    return jax.random.fold_in(jax.random.fold_in(root, round), client)


class RoundPurpose(IntEnum):
    """What a key of a whole round is for, kept apart from the keys of clients, whose numbers are below 2^31.

    The round's keys in `Purpose` are older and coincide with what the keys of clients 1, 5 and 6 are derived from;
    nothing draws from both, and they stay so that published figures can be made again.
    """

    REDUCE = 2**31


def round_purpose(round_key: jax.Array, name: RoundPurpose) -> jax.Array:
    """The key of one purpose of a whole round."""
    return jax.random.fold_in(round_key, int(name))
