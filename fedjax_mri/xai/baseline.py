"""What stands for "nothing there" where an explanation takes something away."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError

Baseline = Literal["zero", "mean", "blurred", "noise"]
BLUR = 8  # of the image's side a Gaussian's standard deviation goes into it


def baseline(name: Baseline, x: jax.Array, key: jax.Array) -> jax.Array:
    """x [B, H, W, C] without its content: zeros, each image's mean, its blur, or noise of its mean and deviation.

    Raises UserError on an unknown name.
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
    """A Gaussian of an eighth of the shorter side, cut off at the border and scaled up there, x [B, H, W, C]."""
    sd = min(x.shape[1:3]) / BLUR
    rows, columns = (jnp.asarray(_shares(size, sd), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("hi,wj,bijc->bhwc", rows, columns, x)


def _shares(size: int, sd: float) -> np.ndarray:
    """Shares [size, size] that each place's mean takes of the others."""
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / sd
    bell = np.exp(-(distance**2) / 2)
    return bell / bell.sum(1, keepdims=True)
