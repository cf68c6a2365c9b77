"""Sets of classes that hold the true one as often as was asked, by split conformal prediction.

With n validation examples exchangeable with those to come, a set at level alpha holds the truth with a probability of
1 - alpha to 1 - alpha + 1 / (n + 1), whatever the model (Vovk et al. 2005; Angelopoulos and Bates 2021,
arXiv 2107.07511). That is on average over patients of the same mix of sites: what single sites get is `by_site`.

`least_ambiguous` and `adaptive` score how badly each class fits, [n, C]; all else is the same for both.
"""

import math

import jax
import jax.numpy as jnp

from fedjax_mri.metrics.ratio import ratio


def least_ambiguous(probabilities: jax.Array) -> jax.Array:
    """Returns one minus the class's probability, [n, C], which gives the smallest sets on average.

    Sadinle et al. 2019, LAC.
    """
    return 1 - probabilities


def adaptive(probabilities: jax.Array, uniform: jax.Array | None = None) -> jax.Array:
    """Returns the probability of all classes at least as likely, [n, C]: sets grow where it is hard.

    Romano et al. 2020, APS.

    uniform [n] in 0..1 takes that share of the class's own probability off, which makes coverage exact; None: none.
    """
    order = jnp.argsort(-probabilities, axis=1)
    total = jnp.cumsum(jnp.take_along_axis(probabilities, order, 1), 1)
    score = jnp.take_along_axis(total, jnp.argsort(order, axis=1), 1)
    return score if uniform is None else score - uniform[:, None] * probabilities


def quantile(scores: jax.Array, labels: jax.Array, alpha: float) -> jax.Array:
    """Returns the highest score of a class in a set, []: the ceil((n + 1)(1 - alpha))-th smallest score of the truth.

    scores [n, C] and int labels [n] of validation examples. Infinite where n is too small for alpha.
    """
    truth = jnp.sort(jnp.take_along_axis(scores, labels[:, None], 1)[:, 0])
    n = len(truth)
    rank = math.ceil((n + 1) * (1 - alpha))
    return truth[rank - 1] if rank <= n else jnp.asarray(jnp.inf, truth.dtype)


def sets(scores: jax.Array, limit: jax.Array | float) -> jax.Array:
    """Returns the classes in each set, bool [n, C]; a set may be empty."""
    return scores <= jnp.asarray(limit, scores.dtype)


def covered(chosen: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether each set [n, C] holds the truth, bool [n]."""
    return jnp.take_along_axis(chosen, labels[:, None], 1)[:, 0]


def by_site(values: jax.Array, client: jax.Array, clients: int) -> jax.Array:
    """Returns the mean of values [n] over each site's examples, float32 [M]; nan for a site without any.

    client int [n].
    """
    total = jnp.zeros(clients, jnp.float32).at[client].add(values.astype(jnp.float32))
    count = jnp.zeros(clients, jnp.float32).at[client].add(jnp.ones(len(client), jnp.float32))
    return ratio(total, count)
