"""Gaussian smoothing, and values between voxels, of images and volumes alike."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp


def gaussian(image: jax.Array, sigmas: Sequence[float] | jax.Array) -> jax.Array:
    """Returns an image blurred by a Gaussian, with a sigma in voxels for each axis.

    Weights are renormalised at the border.
    """
    for axis, sigma in enumerate(sigmas):
        place = jnp.arange(image.shape[axis], dtype=jnp.float32)
        weights = jnp.exp(-0.5 * ((place[:, None] - place[None]) / jnp.maximum(sigma, 1e-3)) ** 2)
        weights = weights / weights.sum(1, keepdims=True)
        image = jnp.moveaxis(jnp.tensordot(weights, image, (1, axis), precision="highest"), 0, axis)
    return image


def sample(image: jax.Array, points: jax.Array, outside: str = "nearest", fill: float = 0.0) -> jax.Array:
    """Returns the image at points [..., n] in voxels, linear between voxels.

    Beyond the image it is what `outside`, a mode of `map_coordinates`, says.
    """
    places = [points[..., axis] for axis in range(image.ndim)]
    between = partial(jax.scipy.ndimage.map_coordinates, order=1, mode=outside, cval=fill)
    return between(image, places)
