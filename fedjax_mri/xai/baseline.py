"""What an image shows where an explanation takes something away."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError

Baseline = Literal["zero", "mean", "blurred", "noise"]
BLUR = 8  # the Gaussian's standard deviation is the image's shorter side divided by this


def baseline(name: Baseline, x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns x [B, H, W, C] without its content, as `name` says.

    It is zeros, each image's mean, its blur, or noise of its mean and deviation. Raises UserError on an unknown name.
    """
    mean = x.mean((1, 2), keepdims=True)
    match name:
        case "zero":
            return jnp.zeros_like(x)
        case "mean":
            return jnp.broadcast_to(mean, x.shape)
        case "blurred":
            return blurred(x)
        case "noise":
            return mean + x.std((1, 2), keepdims=True) * jax.random.normal(key, x.shape, x.dtype)
    raise UserError(f"baseline={name}: give zero, mean, blurred or noise")


def blurred(x: jax.Array) -> jax.Array:
    """Returns x [B, H, W, C] blurred by a Gaussian of an eighth of its shorter side, with weights that sum to 1."""
    sd = min(x.shape[1:3]) / BLUR
    rows, columns = (jnp.asarray(_shares(size, sd), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("hi,wj,bijc->bhwc", rows, columns, x)


def _shares(size: int, sd: float) -> np.ndarray:
    """Returns the weights [size, size] by which each pixel's blurred value averages all pixels of the line."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / sd
    bell = np.exp(-(distance**2) / 2)
    return bell / bell.sum(1, keepdims=True)
