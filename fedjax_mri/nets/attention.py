"""Attention of one image's tokens to another's (Vaswani et al. 2017), where the other image may be missing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

LOWEST = -1e30  # a score that no exponential sees


def attend(query: jax.Array, key: jax.Array, value: jax.Array, there: jax.Array) -> jax.Array:
    """softmax(Q K^T / sqrt(d)) V over the keys that are there, and 0 where none is.

    query [B, T, h, d], key and value [B, S, h, d], there bool [B, S] -> [B, T, h, d].
    """
    scores = jnp.einsum("bthd,bshd->bhts", query, key).astype(jnp.float32) / math.sqrt(query.shape[-1])
    mask = there[:, None, None, :]
    scores = jnp.where(mask, scores, LOWEST)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.where(mask, jnp.exp(scores - largest), 0.0)
    total = jnp.where(mask.any(-1, keepdims=True), weights.sum(-1, keepdims=True), 1.0)
    return jnp.einsum("bhts,bshd->bthd", (weights / total).astype(value.dtype), value)


def positions(grid: tuple[int, ...], width: int) -> np.ndarray:
    """Where each token of a grid lies, float32 [T, width]: sines and cosines of its place along each axis, from 0 to 1.

    Grids of different sizes over the same head agree on where a place is. What `width` leaves over is 0.
    """
    waves = np.arange(width // (2 * len(grid))) + 1
    places = np.meshgrid(*((np.arange(size) + 0.5) / size for size in grid), indexing="ij")
    angles = np.concatenate([np.pi * place.reshape(-1, 1) * waves for place in places], 1)
    found = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    return np.pad(found, ((0, 0), (0, width - found.shape[1]))).astype(np.float32)


class CrossAttention(nnx.Module):
    """Queries from one set of tokens; keys and values from another."""

    def __init__(self, queries: int, keys: int, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.query = nnx.Linear(queries, width, rngs=rngs)
        self.key = nnx.Linear(keys, width, rngs=rngs)
        self.value = nnx.Linear(keys, width, rngs=rngs)
        self.heads = heads

    def __call__(self, x: jax.Array, y: jax.Array, grids: tuple[tuple[int, ...], ...], there: jax.Array) -> jax.Array:
        """Tokens x [B, T, queries] of the first of `grids`, y [B, S, keys] of the second, there bool [B, S] ->
        [B, T, width]."""
        places = (jnp.asarray(positions(grid, z.shape[-1]), z.dtype)[None] for grid, z in zip(grids, (x, y)))
        query, key = (project(z + place) for project, z, place in zip((self.query, self.key), (x, y), places))
        q, k, v = (z.reshape(*z.shape[:2], self.heads, -1) for z in (query, key, self.value(y)))
        return attend(q, k, v, there).reshape(*query.shape)
