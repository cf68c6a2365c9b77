"""Random keys. Each is derived from round, client and purpose, so that no draw depends on lane or device."""

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
    """Returns the key of one purpose, derived from `key`."""
    return jax.random.fold_in(key, int(name))


def fold_in_each(key: jax.Array, names: jax.Array) -> jax.Array:
    """Returns one key for each of `names` int32 [B], keys [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, names)


def client(root: jax.Array, round: jax.Array, client: jax.Array) -> jax.Array:
    """Returns the key of one client in one round. Clients count from 0; draws of the whole round use no client."""
    return jax.random.fold_in(jax.random.fold_in(root, round), client)


class RoundPurpose(IntEnum):
    """What a key of a whole round is for, kept apart from the keys of clients, whose numbers are below 2^31.

    The keys of `Purpose` for a whole round equal those of clients 1, 5 and 6. No draw uses both, and they are kept so
    that published figures can be made again.
    """

    REDUCE = 2**31


def round_purpose(round_key: jax.Array, name: RoundPurpose) -> jax.Array:
    """Returns the key of one purpose of a whole round, derived from the round's key."""
    return jax.random.fold_in(round_key, int(name))
