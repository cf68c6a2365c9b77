"""Attention of one image's tokens to another's (Vaswani et al. 2017), where the other image may be missing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_mri.nets.layers import Layers

MASKED = -1e30  # a score whose exponential is 0


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns softmax(Q K^T / sqrt(d)) V over the keys where `mask` is true, and 0 for an example without any.

    query [B, T, h, d], key and value [B, S, h, d], mask bool [B, S] -> [B, T, h, d].
    """
    scores = jnp.einsum("bthd,bshd->bhts", query, key).astype(jnp.float32) / math.sqrt(query.shape[-1])
    mask = mask[:, None, None, :]
    scores = jnp.where(mask, scores, MASKED)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.where(mask, jnp.exp(scores - largest), 0.0)
    total = jnp.where(mask.any(-1, keepdims=True), weights.sum(-1, keepdims=True), 1.0)
    return jnp.einsum("bhts,bshd->bthd", (weights / total).astype(value.dtype), value)


def positional_encoding(grid: tuple[int, ...], width: int) -> np.ndarray:
    """Returns sines and cosines of each token's position along each axis of a grid, float32 [T, width].

    Positions run from 0 to 1, so grids of different sizes over the same head agree on them. Columns left over are 0.
    """
    waves = np.arange(width // (2 * len(grid))) + 1
    axes = np.meshgrid(*((np.arange(size) + 0.5) / size for size in grid), indexing="ij")
    angles = np.concatenate([np.pi * axis.reshape(-1, 1) * waves for axis in axes], 1)
    encoding = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    return np.pad(encoding, ((0, 0), (0, width - encoding.shape[1]))).astype(np.float32)


class CrossAttention(nnx.Module):
    """Attention with queries from one set of tokens, and keys and values from another."""

    def __init__(self, queries: int, keys: int, width: int, heads: int, layers: Layers) -> None:
        self.query = layers.linear(queries, width)
        self.key = layers.linear(keys, width)
        self.value = layers.linear(keys, width)
        self.heads = heads

    def __call__(self, x: jax.Array, y: jax.Array, grids: tuple[tuple[int, ...], ...], mask: jax.Array) -> jax.Array:
        """Attends from tokens x [B, T, queries] to tokens y [B, S, keys], those where `mask` [B, S] is true.

        `grids` are the shapes of the two images that the tokens are positions of. Returns [B, T, width].
        """
        codes = (jnp.asarray(positional_encoding(grid, z.shape[-1]), z.dtype)[None] for grid, z in zip(grids, (x, y)))
        query, key = (project(z + code) for project, z, code in zip((self.query, self.key), (x, y), codes))
        q, k, v = (z.reshape(*z.shape[:2], self.heads, -1) for z in (query, key, self.value(y)))
        return attend(q, k, v, mask).reshape(*query.shape)
