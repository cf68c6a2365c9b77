"""Smallest maximum eigenvalue averaging.

Allouah, Guerraoui, Gupta, Pinot, Stephan: On the Privacy-Robustness-Utility Trilemma in Distributed Learning, ICML 2023
(arXiv 2302.04787): the mean of the n - f updates whose covariance has the least largest eigenvalue. Eigenvalues are
exact here. (The package byzfl takes one step of the power method from a random vector.)
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, State
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.subsets import best_subset, refuse_many
from fedjax_mri.fed.uplink.vectors import Vectors, centred_products, pairs, uniform_weights


@dataclass(frozen=True)
class SMEA:
    """Settings of SMEA; it needs n > 2 f, and compares all subsets of n - f updates."""

    faulty: int = 1  # f, updates left out

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        refuse = lambda parts: refuse_many("smea", parts.sampler.cohort_size(), self.faulty)  # noqa: E731
        return matrix(
            Rule("smea", self._weigh, faulty=self.faulty, min_updates=2 * self.faulty + 1, check_compatible=refuse)
        )

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        def largest_eigenvalue(chosen: jax.Array) -> jax.Array:
            products = centred_products(vectors, uniform_weights(chosen))
            return jnp.linalg.eigvalsh(jnp.where(pairs(chosen), products, 0.0))[-1]

        return uniform_weights(best_subset(largest_eigenvalue, vectors.present, self.faulty)), state
