"""Minimum diameter averaging.

El Mhamdi, Guerraoui, Guirguis, Hoang, Rouault: Genuinely Distributed Byzantine Machine Learning, PODC 2020 (arXiv
1905.03853): the mean of the n - f updates whose largest distance from one another is the least.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, State
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.subsets import best_subset, refuse_many
from fedjax_mri.fed.uplink.vectors import Vectors, pairs, squared_distances, uniform_weights


@dataclass(frozen=True)
class MDA:
    """Settings of minimum diameter averaging; it needs n > 2 f, and compares all subsets of n - f updates."""

    faulty: int = 1  # f, updates left out

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        refuse = lambda parts: refuse_many("mda", parts.sampler.cohort_size(), self.faulty)  # noqa: E731
        return matrix(
            Rule("mda", self._weigh, faulty=self.faulty, min_updates=2 * self.faulty + 1, check_compatible=refuse)
        )

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        squares = squared_distances(vectors)

        def diameter(chosen: jax.Array) -> jax.Array:
            return jnp.max(jnp.where(pairs(chosen), squares, 0.0))

        return uniform_weights(best_subset(diameter, vectors.present, self.faulty)), state
