"""A shuffle that is never stored: position -> example, computed for just the positions a batch needs.

A generalised Feistel network on a * b >= n points, walked until it lands below n (Black and Rogaway 2002: Ciphers with
arbitrary finite domains). A client of any size costs no memory, and lanes of unequal clients share one program.
"""

import jax
import jax.numpy as jnp

ROUNDS = 8


def shuffled(key: jax.Array, positions: jax.Array, size: jax.Array) -> jax.Array:
    """Positions int32 [B] below `size` int32 [] through a random permutation of 0..size-1; others give 0."""
    wide = jnp.ceil(jnp.sqrt(jnp.maximum(size, 1).astype(jnp.float32))).astype(jnp.uint32)
    sides = wide, (jnp.maximum(size, 1).astype(jnp.uint32) + wide - 1) // wide
    salts = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    limit = size.astype(jnp.uint32)
    start = jnp.where(positions < size, positions, 0).astype(jnp.uint32)

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x < limit, x, _network(x, sides, salts))

    first = _network(start, sides, salts)
    landed = jax.lax.while_loop(lambda x: jnp.any((x >= limit) & (limit > 0)), walk, first)
    return jnp.where(positions < size, landed, 0).astype(jnp.int32)


def _network(x: jax.Array, sides: tuple[jax.Array, jax.Array], salts: jax.Array) -> jax.Array:
    left, right = x % sides[0], x // sides[0]
    for number in range(0, ROUNDS, 2):
        left = (left + _hash(right, salts[number]) % sides[0]) % sides[0]
        right = (right + _hash(left, salts[number + 1]) % sides[1]) % sides[1]
    return left + right * sides[0]


def _hash(x: jax.Array, salt: jax.Array) -> jax.Array:
    """Finaliser of MurmurHash3: each bit of (x, salt) moves each bit of the result."""
    x = (x ^ salt) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
