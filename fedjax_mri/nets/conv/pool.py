"""Max-pools: the 2 x 2 one with a gradient that keeps one byte a square, an overlapping one, and one of volumes."""

import functools

import jax
import jax.numpy as jnp


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the largest of each 2 x 2 square, x [B, H, W, C] -> [B, H//2, W//2, C].

    An odd last row or column is dropped.
    """
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    return _max_of_squares(x[:, :height, :width])


@jax.custom_vjp
def _max_of_squares(x: jax.Array) -> jax.Array:
    return _max_and_argmax(x)[0]


def _max_and_argmax(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the largest of each square, and which of its four it was (the first of equals).

    This is all that its gradient needs.
    """
    return max_and_argmax_of_four(*(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)))


def max_and_argmax_of_four(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the largest of four arrays in each place, and which it is, uint8 0 to 3: the first of equals."""
    top, bottom = jnp.maximum(a, b), jnp.maximum(c, d)
    which = jnp.where(top >= bottom, jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3))
    return jnp.maximum(top, bottom), which.astype(jnp.uint8)


def _unpool(which: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    batch, height, width, channels = which.shape
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    chosen = which[:, :, None, :, None] == corner
    spread = jnp.where(chosen, gradient[:, :, None, :, None], jnp.zeros((), gradient.dtype))
    return (spread.reshape(batch, 2 * height, 2 * width, channels),)


_max_of_squares.defvjp(_max_and_argmax, _unpool)


def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """Returns the largest of each 3 x 3 square around every second pixel.

    x [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    x = functools.reduce(jnp.maximum, [x[:, i : i + rows : 2] for i in range(3)])
    return functools.reduce(jnp.maximum, [x[:, :, j : j + columns : 2] for j in range(3)])


def max_pool_3d(x: jax.Array) -> jax.Array:
    """Returns the largest of 2 x 2 x 2 voxels, of 2 x 2 where there is one slice.

    x [B, D, H, W, C]; odd ends are dropped.
    """
    batch, depth = x.shape[:2]
    y = max_pool(x.reshape(-1, *x.shape[2:]))
    y = y.reshape(batch, depth, *y.shape[1:])
    return y if depth == 1 else jnp.maximum(y[:, 0 : depth // 2 * 2 : 2], y[:, 1::2])
