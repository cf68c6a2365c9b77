"""The covariance-bound agnostic filter.

Allouah, Guerraoui, Stephan: Towards Trustworthy Federated Learning with Untrusted Participants, ICML 2025 (arXiv
2505.01874): updates lose weight by how far they lie along the direction in which the weighted updates vary most, until
n - 2 f of the weight is left. In each step the update that lies furthest, of those with weight left, loses all of its
own. The result is the mean at which that variance was least. The direction is exact here.
(The package byzfl takes one step of the power method from a random vector.)
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, State
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, centred_products, dot, uniform_weights

ROUNDING = 1e-5  # a weight below this is none
STEPS = 1000  # bound on the steps of the filter; each takes all of one update's weight


class Filtered(NamedTuple):
    """What is left after some steps."""

    weights: jax.Array  # float32 [M], from 1 down to 0
    least: jax.Array  # float32 [], the least variance so far
    best: jax.Array  # float32 [M], shares of the mean where it was
    steps: jax.Array  # int32 []


@dataclass(frozen=True)
class CAF:
    """Settings of CAF, the covariance-bound agnostic filter; it needs n > 2 f."""

    faulty: int = 1  # f, clients that may send anything

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        return matrix(Rule("caf", self._weigh, faulty=self.faulty, min_updates=2 * self.faulty + 1))

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        enough = (vectors.present.sum() - 2 * self.faulty).astype(jnp.float32)

        def step(before: Filtered) -> Filtered:
            weights = before.weights
            share = weights / jnp.maximum(weights.sum(), 1e-12)
            products, root = centred_products(vectors, share), jnp.sqrt(share)
            variances, directions = jnp.linalg.eigh(root[:, None] * products * root[None])
            along = jnp.where(weights > 0, dot(products, root * directions[:, -1]) ** 2, 0.0)
            left = weights * jnp.maximum(1 - along / jnp.maximum(along.max(), 1e-30), 0.0)
            left = jnp.where(left > ROUNDING, left, 0.0)
            better = variances[-1] < before.least
            least, best = jnp.minimum(variances[-1], before.least), jnp.where(better, share, before.best)
            return Filtered(left, least, best, before.steps + 1)

        def goes_on(now: Filtered) -> jax.Array:
            return (now.weights.sum() > enough) & (now.steps < STEPS)

        start = (
            vectors.present.astype(jnp.float32),
            jnp.float32(jnp.inf),
            uniform_weights(vectors.present),
            jnp.int32(0),
        )
        return jax.lax.while_loop(goes_on, step, Filtered(*start)).best, state
