"""Several models' predictions as one, and how far they disagree (Lakshminarayanan et al. 2017, deep ensembles).

Members are the models of seeds, clients or algorithms: probabilities [K, n, C].
"""

from typing import NamedTuple

import jax


class Uncertainty(NamedTuple):
    """Entropies in nats, each [n]; the first is the sum of the others (Depeweg et al. 2018)."""

    total: jax.Array  # of the mean prediction
    aleatoric: jax.Array  # the members' mean entropy: what they all find hard
    epistemic: jax.Array  # mutual information: what they disagree on


def mean(probabilities: jax.Array) -> jax.Array:
    """Returns the ensemble's prediction [n, C]: the mean of its members'."""
    return probabilities.mean(0)


def uncertainty(probabilities: jax.Array) -> Uncertainty:
    """Returns how uncertain the ensemble's predictions are, and why."""
    total, each = entropy(mean(probabilities)), entropy(probabilities).mean(0)
    return Uncertainty(total, each, total - each)


def entropy(probabilities: jax.Array) -> jax.Array:
    """Returns the entropy of probabilities along the last axis, in nats."""
    return -jax.scipy.special.xlogy(probabilities, probabilities).sum(-1)
