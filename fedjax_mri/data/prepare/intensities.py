"""Intensities brought to a common scale: windowed, rescaled, matched, denoised, with more contrast."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.augment import Preprocess, enhanced

TAILS = (0.005, 0.995)  # quantiles of the head that count as black and white
QUANTILES = 256  # by which histograms are matched
REACH, PATCH = 3, 1  # pixels: how far non-local means look, and half the side of what they compare


def windowed(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns HU as a display shows them, 0..1."""
    return np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)


def rescale(image: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Returns an image of any scale in 0..1, by quantiles of the head; an image without contrast becomes black."""
    low, high = np.quantile(image[head] if head.any() else image, TAILS)
    low = min(low, float(np.median(image[~head]))) if (~head).any() else low  # the air around the head is black
    return windowed(image, low, high) if high > low else np.zeros_like(image)


def match_histogram(image: np.ndarray, head: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns an image whose histogram in the head is that of `reference`, values [N]; the order of its values is kept.

    Beyond the head's darkest and brightest values the map goes on straight.
    """
    if not head.any():
        return image
    shares = np.linspace(0, 1, QUANTILES)
    own, wanted = np.quantile(image[head], shares), np.quantile(reference, shares)
    own, first = np.unique(own, return_index=True)
    wanted = wanted[first]
    slope = (wanted[-1] - wanted[0]) / max(own[-1] - own[0], 1e-6)
    beyond = np.where(image < own[0], image - own[0], np.maximum(image - own[-1], 0)) * slope
    return (np.interp(image, own, wanted) + beyond).astype(np.float32)


def denoise(slices: np.ndarray, how: Literal["median", "gaussian", "nlm"]) -> np.ndarray:
    """Returns slices [D, H, W] of any scale, each denoised.

    `how`: by the 3 x 3 median, a Gaussian of 1 pixel, or non-local means.
    """
    images = jnp.asarray(slices)[..., None]
    if how == "nlm":
        return np.asarray(jax.lax.map(non_local_means, images[..., 0]))
    return np.asarray(enhanced(Preprocess(denoise="median" if how == "median" else 1.0), images)[..., 0])


def with_contrast(slices: np.ndarray, how: Literal["clahe", "stretch"]) -> np.ndarray:
    """Returns slices [D, H, W] of 0..1, each with more contrast: equalised tile by tile, or stretched."""
    return np.asarray(enhanced(Preprocess(contrast=how), jnp.asarray(slices)[..., None])[..., 0])


@jax.jit
def non_local_means(image: jax.Array) -> jax.Array:
    """Returns an image [H, W] in which each pixel is a mean of those around whose surroundings are alike.

    Buades et al. 2005, doi 10.1109/CVPR.2005.38; the noise is found by itself (Immerkaer 1996, but by the median).
    """
    noise = noise_level(image)
    size = 2 * PATCH + 1
    padded = jnp.pad(image, REACH, mode="reflect")

    def add(sums: tuple[jax.Array, jax.Array], shift: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        other = jax.lax.dynamic_slice(padded, shift, image.shape)
        apart = jnp.pad((image - other) ** 2, PATCH, mode="edge")
        apart = jax.lax.reduce_window(apart, 0.0, jax.lax.add, (size, size), (1, 1), "valid") / size**2
        weight = jnp.exp(-jnp.maximum(apart - 2 * noise**2, 0) / jnp.maximum(0.4 * noise**2, 1e-20))
        return (sums[0] + weight * other, sums[1] + weight), None

    side = jnp.arange(2 * REACH + 1)
    shifts = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    (total, weights), _ = jax.lax.scan(add, (jnp.zeros_like(image), jnp.zeros_like(image)), shifts)
    return total / weights


def noise_level(image: jax.Array) -> jax.Array:
    """Returns the standard deviation of the noise, from what neither lines nor slopes explain.

    Flat ground does not count.
    """
    corner = jnp.array([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])
    rest = jnp.abs(jax.scipy.signal.convolve(image, corner, "valid")) / 6
    level = jnp.nanmedian(jnp.where(rest > 0, rest, jnp.nan)) / 0.6745
    return jnp.nan_to_num(level)
