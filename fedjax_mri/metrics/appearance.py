"""What an image looks like, in a few numbers that need no network: its grey values, and the outline of the head.

All functions take images [B, H, W, C] in 0..1, of any size, and average their channels.
"""

import jax
import jax.numpy as jnp

DARK = 0.1  # of the range up to the 99th percentile: what is darker is background
WHITE, BLACK = 0.9, 0.02  # what is brighter is nearly white, what is darker nearly black
FLAT = 2 / 255  # a smaller range of grey values shows nothing


def is_flat(images: jax.Array) -> jax.Array:
    """Returns whether all pixels of an image have the same grey value, but for rounding: bool [B]."""
    grey = images.mean(-1)
    return jnp.ptp(grey, (1, 2)) < FLAT


def foreground(images: jax.Array) -> jax.Array:
    """Returns the mask of the pixels that are not dark, bool [B, H, W]; it is empty for a flat image."""
    grey = images.mean(-1)
    low = grey.min((1, 2), keepdims=True)
    high = jnp.percentile(grey, 99, (1, 2), keepdims=True)
    return grey > low + DARK * (high - low)


def grey_values(images: jax.Array) -> jax.Array:
    """Returns four figures of the grey values of each image, [B, 4].

    They are the mean and standard deviation of the pixels that are not dark, the share of those that is nearly white
    (all three are 0 where all is dark), and the share of all pixels that is nearly black.
    """
    grey, bright = images.mean(-1), foreground(images).astype(jnp.float32)
    count = jnp.maximum(bright.sum((1, 2)), 1.0)

    def mean(values: jax.Array) -> jax.Array:
        return (bright * values).sum((1, 2)) / count

    centre = mean(grey)
    spread = jnp.sqrt(mean((grey - centre[:, None, None]) ** 2))
    white, black = mean((grey > WHITE).astype(jnp.float32)), (grey < BLACK).mean((1, 2), dtype=jnp.float32)
    return jnp.stack([centre, spread, white, black], 1)


def outline(images: jax.Array) -> jax.Array:
    """Returns area, proportions and fullness of the head, and how much of it touches the border of the image: [B, 4].

    The head is what lies between pixels that are not dark, to both sides and above and below. Area: share of the image.
    Proportions: log of the height over the width. Fullness: share of its bounding box; of an ellipse 0.79. Border:
    share of the outermost pixels that are not dark.
    """
    bright = foreground(images)
    head = between(bright, 1) & between(bright, 2)
    height, width = (head.any(axis).mean(1, dtype=jnp.float32) for axis in (2, 1))  # shares of the image
    proportions = jnp.log((height * images.shape[1] + 1) / (width * images.shape[2] + 1))
    area = head.mean((1, 2), dtype=jnp.float32)
    fullness = area / jnp.maximum(height * width, 1e-9)
    border = jnp.concatenate([bright[:, 0], bright[:, -1], bright[:, :, 0], bright[:, :, -1]], 1)
    return jnp.stack([area, proportions, fullness, border.mean(1, dtype=jnp.float32)], 1)


def between(mask: jax.Array, axis: int) -> jax.Array:
    """Returns the pixels that are in the mask or have pixels of the mask on both sides along an axis."""
    before, after = (jax.lax.cummax(mask.astype(jnp.int8), axis, reverse=reverse) for reverse in (False, True))
    return (before & after) > 0
