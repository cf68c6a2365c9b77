"""Images made smaller and larger without parameters, most of them along one axis after the other."""

import jax
import jax.numpy as jnp
import numpy as np


def double_nearest(x: jax.Array) -> jax.Array:
    """Doubles the image by repeating each pixel: x [B, H, W, C] -> [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def double_bilinear(x: jax.Array) -> jax.Array:
    """Doubles the image by linear interpolation between pixel centres: x [B, H, W, C] -> [B, 2H, 2W, C].

    A pixel is 3/4 of the nearest and 1/4 of the second nearest along each axis; borders are repeated.
    """
    for axis in (1, 2):
        edges = [(int(a == axis),) * 2 for a in range(4)]
        wide, length = jnp.pad(x, edges, mode="edge"), x.shape[axis]
        before, after = (jax.lax.slice_in_dim(wide, i, i + length, 1, axis) for i in (0, 2))
        pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
    return x


def reflect_pad(x: jax.Array, width: int) -> jax.Array:
    """Mirrors the border outwards without repeating its own pixels: x [B, H, W, C] -> [B, H + 2w, W + 2w, C]."""
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect")


def halve_mean(x: jax.Array) -> jax.Array:
    """Halves the image: x [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].

    A pixel is the mean of the 3 x 3 square around every second pixel, as far as it lies inside the image.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        starts = range(-1, size - 1, 2)
        x = _means(x, axis, [(max(start, 0), min(start + 3, size)) for start in starts])
    return x


def adaptive_mean_pool(x: jax.Array, side: int) -> jax.Array:
    """Returns the means of side x side boxes that cover the image: x [B, H, W, C] -> [B, side, side, C].

    Boxes overlap where H or W is no multiple of `side`. PyTorch calls it adaptive average pooling.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        if size != side:
            x = _means(x, axis, [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)])
    return x


def _means(x: jax.Array, axis: int, spans: list[tuple[int, int]]) -> jax.Array:
    """Returns the mean over each span [start, end) of an axis, as one product with a matrix that holds the shares."""
    shares = np.zeros((len(spans), x.shape[axis]))
    for row, (start, end) in enumerate(spans):
        shares[row, start:end] = 1 / (end - start)
    return jnp.moveaxis(jnp.tensordot(x, jnp.asarray(shares, x.dtype), ((axis,), (1,))), -1, axis)
