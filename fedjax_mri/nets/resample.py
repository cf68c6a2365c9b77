"""Images made smaller and larger without parameters; each works along one axis after the other."""

import jax
import jax.numpy as jnp
import numpy as np


def nearest(x: jax.Array) -> jax.Array:
    """Each pixel a 2 x 2 square, x [B, H, W, C] -> [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def bilinear(x: jax.Array) -> jax.Array:
    """Doubled by weights 3/4 and 1/4 of the two nearest centres, borders repeated, x [B, H, W, C] -> [B, 2H, 2W, C]."""
    for axis in (1, 2):
        edges = [(int(a == axis),) * 2 for a in range(4)]
        wide, length = jnp.pad(x, edges, mode="edge"), x.shape[axis]
        before, after = (jax.lax.slice_in_dim(wide, i, i + length, 1, axis) for i in (0, 2))
        pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
    return x


def halved_mean(x: jax.Array) -> jax.Array:
    """Mean of the 3 x 3 square around every second pixel, of those inside the image: [B, ceil(H/2), ceil(W/2), C]."""
    for axis in (1, 2):
        size = x.shape[axis]
        starts = range(-1, size - 1, 2)
        x = _means(x, axis, [(max(start, 0), min(start + 3, size)) for start in starts])
    return x


def gridded_mean(x: jax.Array, side: int) -> jax.Array:
    """Means of side x side boxes that cover x [B, H, W, C], overlapping where H is no multiple: [B, side, side, C]."""
    for axis in (1, 2):
        size = x.shape[axis]
        if size != side:
            x = _means(x, axis, [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)])
    return x


def _means(x: jax.Array, axis: int, spans: list[tuple[int, int]]) -> jax.Array:
    """Mean over each span [start, end) of an axis, as one product with a matrix that holds the shares."""
    shares = np.zeros((len(spans), x.shape[axis]))
    for row, (start, end) in enumerate(spans):
        shares[row, start:end] = 1 / (end - start)
    return jnp.moveaxis(jnp.tensordot(x, jnp.asarray(shares, x.dtype), ((axis,), (1,))), -1, axis)
