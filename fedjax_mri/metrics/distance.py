"""Distances of two sets of images by their features: Frechet (Heusel et al. 2017), kernel (Binkowski et al. 2018).

Either depends on the encoder and, the Frechet distance strongly, on the number of images: name both beside a figure.
With 64 features, two sets of one distribution are 45 apart at 50 images each and .44 at 5000, while the kernel distance
is unbiased. Only with the weights of Inception may a Frechet distance be called FID; nothing here is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.metrics.structure import pixel_size, responses
from fedjax_mri.metrics.window import halved

SCALES = 3  # of `structure_features`, each twice as coarse as the one before


class Moments(NamedTuple):
    """Weighted sums of features over images; adding two is merging them.

    In float32 the covariance keeps digits only where features vary as much as their mean: merge many sums in float64.
    """

    sum: jax.Array  # [..., d]
    outer: jax.Array  # [..., d, d]
    weight: jax.Array  # [...] number of images


def moments(features: jax.Array, weight: jax.Array) -> Moments:
    """Returns the sums over a batch; features [B, d], weight [B] (0 for padding, whatever its features)."""
    features = jnp.where(weight[:, None] > 0, features, 0.0)
    weighted = features * weight[:, None]
    return Moments(weighted.sum(0), jnp.matmul(weighted.T, features, precision="highest"), weight.sum())


def mean_covariance(m: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean [d] and sample covariance [d, d] of moments without leading dimensions, float64.

    They are nan below two images.
    """
    total, outer, n = (np.asarray(field, np.float64) for field in m)
    if n < 2:
        return np.full(total.shape, np.nan), np.full(outer.shape, np.nan)
    return total / n, (outer - np.outer(total, total) / n) / (n - 1)


def frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Returns the Frechet distance of two Gaussians with means [d] and covariances [d, d].

    It is |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2).

    On the host in float64. The root's argument is symmetric, so its eigenvalues are real and the distance is too,
    whatever the rank (Dowson and Landau 1982).
    """
    mean1, cov1, mean2, cov2 = (np.asarray(x, np.float64) for x in (mean1, cov1, mean2, cov2))
    if not all(np.isfinite(x).all() for x in (mean1, cov1, mean2, cov2)):
        return float("nan")
    values, vectors = np.linalg.eigh(cov1)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0)).sum()
    return float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * shared)


def frechet_of(a: Moments, b: Moments) -> float:
    """Returns the Frechet distance of two sets; nan where one has fewer than two images."""
    return frechet(*mean_covariance(a), *mean_covariance(b))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the squared maximum mean discrepancy under the kernel (x.y/d + 1)^3, unbiased, so it may be negative.

    Features [n, d] and [m, d], on the host in float64; nan where either has fewer than two.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return float("nan")
    within = sum((_kernel(z, z) - _diagonal(z)) / (len(z) * (len(z) - 1)) for z in (x, y))
    return within - 2 * _kernel(x, y) / (n * m)


def _kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the sum of the kernel over all pairs, a thousand rows at a time."""
    rows = (x[i : i + 1000] for i in range(0, len(x), 1000))
    return sum(float(np.sum((part @ y.T / x.shape[1] + 1) ** 3)) for part in rows)


def _diagonal(x: np.ndarray) -> float:
    """Returns the sum of the kernel over the pairs of each feature vector with itself."""
    return float(np.sum((np.square(x).sum(1) / x.shape[1] + 1) ** 3))


def structure_features(images: jax.Array, pixel: float | None = None) -> jax.Array:
    """Returns features [B, 44] of images [B, H, W, 1] in 0..1, by an encoder without weights.

    They are the mean and standard deviation of the image, and what `structure.responses` sees at three scales (5, 10
    and 20 mm for the ventricle filter, say): for each scale the mean of the positive responses of each of 7 filters,
    and the standard deviation of its responses. pixel in mm; None: as `structure.pixel_size` has it.
    """
    pixel = pixel_size(images) if pixel is None else pixel
    pooled = [_pooled(images, images)]
    for _ in range(SCALES):
        response = responses(images, pixel)
        pooled.append(_pooled(jax.nn.relu(response), response))
        # Half the pixels for the same kernels: a structure of twice the size.
        images = halved(images)
    return jnp.concatenate(pooled, -1)


def _pooled(positive: jax.Array, response: jax.Array) -> jax.Array:
    """Returns means of the positive responses and standard deviations of all over the image, [B, 2F].

    The mean of all responses is near 0, because every filter weighs a bright part against a dark one.
    """
    centred = response - response.mean((1, 2), keepdims=True)
    return jnp.concatenate([positive.mean((1, 2)), jnp.sqrt(jnp.square(centred).mean((1, 2)) + 1e-12)], -1)
