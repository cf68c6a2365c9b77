"""A random permutation that is not stored, but computed for just the positions that a batch needs.

It is a generalised Feistel network on a * b >= n points, applied again until the result is below n (Black and Rogaway
2002: Ciphers with arbitrary finite domains). It needs no memory for a client of any size, and clients of unequal sizes
share one program.
"""

import jax
import jax.numpy as jnp

from fedjax_mri.core import devices

ROUNDS = 8
# The host of a GPU waits for the condition of a loop. So a few walks are made there before it is first asked; each
# leaves a share of 1 / sqrt(size) of the positions, or less, outside.
UNASKED = 3


def shuffled(key: jax.Array, positions: jax.Array, size: jax.Array) -> jax.Array:
    """Returns where a random permutation of 0..size-1 sends `positions` int32 [B].

    Positions of `size` int32 [] or more give 0.
    """
    width = jnp.ceil(jnp.sqrt(jnp.maximum(size, 1).astype(jnp.float32))).astype(jnp.uint32)
    sides = width, (jnp.maximum(size, 1).astype(jnp.uint32) + width - 1) // width
    salts = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    limit = size.astype(jnp.uint32)
    start = jnp.where(positions < size, positions, 0).astype(jnp.uint32)

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x < limit, x, _network(x, sides, salts))

    first = _network(start, sides, salts)
    for _ in range(0 if devices.current().platform == "cpu" else UNASKED):
        first = walk(first)
    landed = jax.lax.while_loop(lambda x: jnp.any((x >= limit) & (limit > 0)), walk, first)
    return jnp.where(positions < size, landed, 0).astype(jnp.int32)


def _network(x: jax.Array, sides: tuple[jax.Array, jax.Array], salts: jax.Array) -> jax.Array:
    left, right = x % sides[0], x // sides[0]
    for number in range(0, ROUNDS, 2):
        left = (left + _hash(right, salts[number]) % sides[0]) % sides[0]
        right = (right + _hash(left, salts[number + 1]) % sides[1]) % sides[1]
    return left + right * sides[0]


def _hash(x: jax.Array, salt: jax.Array) -> jax.Array:
    """Returns a hash by the finaliser of MurmurHash3: each bit of (x, salt) affects each bit of the result."""
    x = (x ^ salt) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
