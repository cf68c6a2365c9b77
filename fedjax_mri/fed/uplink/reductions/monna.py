"""Nearest neighbour averaging around one trusted client.

Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan: Robust Collaborative Learning with Linear Gradient Overhead, ICML
2023 (arXiv 2209.10931): the mean of the n - f updates nearest that of the trusted client, its own included.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, SimulationParts, State
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, distances_to, nearest, uniform_weights


@dataclass(frozen=True)
class MoNNA:
    """Settings of MoNNA; it needs n > 2 f. A round without the trusted client changes nothing."""

    faulty: int = 1  # f, clients that may send anything
    trusted: int = 0  # number of the client

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        least = 2 * self.faulty + 1
        return matrix(
            Rule(
                "monna",
                self._weigh,
                faulty=self.faulty,
                min_updates=least,
                check_compatible=self._check_compatible,
                needs_client_ids=True,
            )
        )

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        distances = distances_to(vectors, vectors.mix[self.trusted])
        chosen = nearest(distances, vectors.present.sum() - self.faulty)
        return jnp.where(vectors.present[self.trusted], uniform_weights(chosen), 0.0), state

    def _check_compatible(self, parts: SimulationParts) -> None:
        last = parts.sampler.cohort_size() - 1
        if not 0 <= self.trusted <= last:
            raise UserError(f"uplink.reduce monna: trusted={self.trusted}: choose a client from 0 to {last}")
