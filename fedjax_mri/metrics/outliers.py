"""Scores of how much an example differs from the data that a model knows: the larger, the more it differs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def energy(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """-T logsumexp(logits / T), [n] from [n, C]: high where all logits are low (Liu et al. 2020, Energy-based OOD)."""
    return -temperature * jax.nn.logsumexp(logits / temperature, axis=-1)


class Gaussians(NamedTuple):
    """A normal distribution for each class, with one covariance for all."""

    means: jax.Array  # [C, D]
    precision: jax.Array  # [D, D]


def gaussians(features: jax.Array, labels: jax.Array, classes: int, ridge: float = 1e-3) -> Gaussians:
    """The distributions of features [n, D] of classes int [n] (Lee et al. 2018, Mahalanobis, eq. 1).

    Features count in units of their own deviation. `ridge` times the mean variance in these units is added to each:
    there may be fewer examples than features. Classes without an example have the mean of all.
    """
    unit = jnp.maximum(features.std(0), jnp.maximum(1e-3 * features.std(0).max(), 1e-6))
    features = features / unit[None]
    belongs = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    count = belongs.sum(0)[:, None]
    means = jnp.matmul(belongs.T, features, precision="highest") / jnp.maximum(count, 1.0)
    means = jnp.where(count > 0, means, features.mean(0, keepdims=True))
    centred = features - means[labels]
    spread = jnp.matmul(centred.T, centred, precision="highest") / len(features)
    size = jnp.maximum(jnp.trace(spread) / len(spread), 1e-12)
    precision = jnp.linalg.inv(spread + ridge * size * jnp.eye(len(spread), dtype=spread.dtype))
    return Gaussians(means * unit[None], precision / unit[:, None] / unit[None])


def mahalanobis(known: Gaussians, features: jax.Array) -> jax.Array:
    """Squared distance to the nearest class's mean, [n] from [n, D] (Lee et al. 2018, eq. 2)."""
    gaps = features[:, None] - known.means[None]
    return jnp.einsum("ncd,de,nce->nc", gaps, known.precision, gaps, precision="highest").min(1)


def p_value(scores: jax.Array, reference: jax.Array) -> jax.Array:
    """The chance that an example like the reference's has a score this high, [n]: (1 + how many have it) / (1 + m).

    scores [n], reference [m]. Uniform or larger for exchangeable examples (Bates et al. 2023, conformal p-values).
    """
    higher = (reference[None] >= scores[:, None]).sum(1)
    return (1 + higher).astype(jnp.float32) / (1 + len(reference))


def combined_p_value(scores: jax.Array, reference: jax.Array) -> jax.Array:
    """The chance that an example like the reference's is this extreme by several scores taken together, [n].

    scores [n, J], reference [m, J], all 0 or more, the larger the more extreme. Each score counts in units of the
    reference's 95 % quantile, and the largest of an example's is ranked among those of the reference. However the
    scores depend on one another, p is uniform or larger for exchangeable examples, but for the little that one example
    would move the quantiles.
    """
    unit = jnp.maximum(jnp.quantile(reference, 0.95, axis=0, keepdims=True), 1e-12)
    return p_value((scores / unit).max(1), (reference / unit).max(1))
