"""Divides images into parts: squares of a grid, or regions of similar brightness."""

import jax
import jax.numpy as jnp

ROUNDS = 10  # of SLIC, as published
COMPACTNESS = 0.5  # deviations of brightness that count as much as the distance between two centres


def grid(x: jax.Array, across: int) -> jax.Array:
    """Divides x [B, H, W, C] into the parts 0..across^2 - 1 of a grid, int32 [B, H, W]."""
    rows, columns = (jnp.arange(size) * across // size for size in x.shape[1:3])
    return jnp.broadcast_to(rows[:, None] * across + columns[None, :], x.shape[:3]).astype(jnp.int32)


def slic(x: jax.Array, across: int) -> jax.Array:
    """Divides x [B, H, W, C] into parts 0..across^2 - 1, int32 [B, H, W], by SLIC (Achanta et al. 2012).

    k-means of brightness and place that starts from the grid. The search is not confined to near centres, and a part
    may fall in pieces or be empty.
    """
    start = grid(x, across)
    return jax.lax.map(lambda pair: _slic(pair[0], pair[1], across), (x, start))


def _slic(x: jax.Array, start: jax.Array, across: int) -> jax.Array:
    features = _features(x, across)
    parts = across**2

    def move(_: int, assigned: jax.Array) -> jax.Array:
        member = jax.nn.one_hot(assigned, parts, dtype=x.dtype)
        count = member.sum(0)
        centres = (member.T @ features) / jnp.maximum(count, 1)[:, None]
        distance = jnp.square(centres).sum(-1)[None, :] - 2 * features @ centres.T  # and the pixel's own square
        return jnp.where(count[None, :] > 0, distance, jnp.inf).argmin(-1).astype(jnp.int32)

    return jax.lax.fori_loop(0, ROUNDS, move, start.reshape(-1)).reshape(start.shape)


def _features(x: jax.Array, across: int) -> jax.Array:
    """Returns brightness in deviations and place in steps of the grid, [H W, C + 2]."""
    places = [jnp.arange(size, dtype=x.dtype) * (across / size) - across / 2 for size in x.shape[:2]]
    place = jnp.stack(jnp.meshgrid(*places, indexing="ij"), -1) * COMPACTNESS
    brightness = (x - x.mean((0, 1))[None, None]) / (x.std() + 1e-6)
    return jnp.concatenate([brightness, place], -1).reshape(-1, x.shape[2] + 2)
