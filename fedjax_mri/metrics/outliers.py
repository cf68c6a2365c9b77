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

    `ridge` times the mean variance is added to each: there may be fewer examples than features.
    """
    belongs = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    count = jnp.maximum(belongs.sum(0), 1.0)
    means = jnp.matmul(belongs.T, features, precision="highest") / count[:, None]
    centred = features - means[labels]
    spread = jnp.matmul(centred.T, centred, precision="highest") / len(features)
    size = jnp.maximum(jnp.trace(spread) / len(spread), 1e-12)
    return Gaussians(means, jnp.linalg.inv(spread + ridge * size * jnp.eye(len(spread), dtype=spread.dtype)))


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
