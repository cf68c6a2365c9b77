"""Scores of how much an example differs from the data that a model knows: the larger, the more it differs.

Distances and p values are computed by NumPy on the host: there are few examples, and nothing has to be compiled.
"""

from typing import NamedTuple

import jax
import numpy as np


def energy(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns the energy -T logsumexp(logits / T), [n] from [n, C], which is high where all logits are low.

    Liu et al. 2020, Energy-based OOD.
    """
    return -temperature * jax.nn.logsumexp(logits / temperature, axis=-1)


class Gaussians(NamedTuple):
    """A normal distribution for each class, with one covariance for all."""

    means: np.ndarray  # float32 [C, D]
    precision: np.ndarray  # float32 [D, D]


def gaussians(features: np.ndarray, labels: np.ndarray, classes: int, ridge: float = 1e-3) -> Gaussians:
    """Returns the distributions of features [n, D] of classes int [n] (Lee et al. 2018, Mahalanobis, eq. 1).

    Features count in units of their own deviation. `ridge` times the mean variance in these units is added to each:
    there may be fewer examples than features. Classes without an example have the mean of all.
    """
    features = np.asarray(features, np.float64)
    deviation = features.std(0)
    unit = np.maximum(deviation, max(1e-3 * deviation.max(), 1e-6))
    scaled = features / unit
    present = [scaled[labels == label] for label in range(classes)]
    means = np.stack([(one if len(one) else scaled).mean(0) for one in present])
    centred = scaled - means[labels]
    spread = centred.T @ centred / len(scaled)
    size = max(np.trace(spread) / len(spread), 1e-12)
    precision = np.linalg.inv(spread + ridge * size * np.eye(len(spread)))
    return Gaussians(*(one.astype(np.float32) for one in (means * unit, precision / unit[:, None] / unit)))


def mahalanobis(known: Gaussians, features: np.ndarray) -> np.ndarray:
    """Returns the squared distance to the nearest class's mean, [n] from [n, D] (Lee et al. 2018, eq. 2)."""
    precision = known.precision.astype(np.float64)
    gaps = [np.asarray(features, np.float64) - mean for mean in known.means]
    return np.stack([((gap @ precision) * gap).sum(1) for gap in gaps]).min(0)


def p_value(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns the chance that an example like the reference's has a score this high, [n].

    It is (1 + how many have it) / (1 + m).

    scores [n], reference [m]. Uniform or larger for exchangeable examples (Bates et al. 2023, conformal p-values).
    """
    higher = (np.asarray(reference)[None] >= np.asarray(scores)[:, None]).sum(1)
    return (1 + higher) / (1 + len(reference))


def combined_p_value(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns the chance that an example like the reference's is this extreme by several scores taken together, [n].

    scores [n, J], reference [m, J], all 0 or more, the larger the more extreme. Each score counts in units of the
    reference's 95 % quantile, and the largest of an example's is ranked among those of the reference. However the
    scores depend on one another, p is uniform or larger for exchangeable examples, but for the little that one example
    would move the quantiles.
    """
    unit = np.maximum(np.quantile(reference, 0.95, axis=0), 1e-12)
    return p_value((scores / unit).max(1), (reference / unit).max(1))
