"""Weighted sums over a sliding window, one axis after the other."""

import jax
import jax.numpy as jnp
import numpy as np


def gaussian(size: int, sd: float) -> np.ndarray:
    """Returns the weights float64 [size] of a Gaussian of `sd` pixels, cut to `size` pixels, with sum 1."""
    distance = np.arange(size) - (size - 1) / 2
    weights = np.exp(-0.5 * (distance / sd) ** 2)
    return weights / weights.sum()


def uniform(size: int) -> np.ndarray:
    """Returns equal weights, sum 1: float64 [size]."""
    return np.full(size, 1 / size)


def windows(x: jax.Array, size: int, axis: int) -> jax.Array:
    """Returns the pixels of all windows within `x`, stacked by their place in the window: [size, *shape].

    `axis` loses size - 1 pixels.
    """
    length = x.shape[axis] - size + 1
    return jnp.stack([jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i in range(size)])


def average(weights: np.ndarray, stacked: jax.Array) -> jax.Array:
    """Returns the sum of weights [K] times values [K, ...], as `windows` stacks them."""
    return jnp.tensordot(jnp.asarray(weights, jnp.float32), stacked, 1, precision="highest")


def smooth(x: jax.Array, sd: float, axes: tuple[int, ...] = (1, 2)) -> jax.Array:
    """Returns x blurred by a Gaussian of `sd` pixels, cut at three of them, same shape.

    The border is repeated outwards.
    """
    reach = int(np.ceil(3 * sd))
    for axis in axes:
        pads = [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)]
        x = average(gaussian(2 * reach + 1, sd), windows(jnp.pad(x, pads, mode="edge"), 2 * reach + 1, axis))
    return x


def halved(x: jax.Array, axes: int = 2) -> jax.Array:
    """Returns the means of 2 x 2 pixels, or of 2 x 2 x 2 voxels for 3 axes; an odd last row or column is dropped."""
    for axis in range(1, 1 + axes):
        half = x.shape[axis] // 2
        pairs = jax.lax.slice_in_dim(x, 0, 2 * half, axis=axis)
        x = pairs.reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :]).mean(axis + 1)
    return x
