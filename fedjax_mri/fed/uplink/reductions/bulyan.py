"""Bulyan.

El Mhamdi, Guerraoui, Rouault: The Hidden Vulnerability of Distributed Learning in Byzantium, ICML 2018 (arXiv
1802.07927): Krum picks n - 2 f updates, one after another, each among those that are left. In each coordinate the
result is the mean of the n - 4 f values of the picks that are nearest their median.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.contract import PyTree, Reduce, RoundContext, State
from fedjax_mri.fed.uplink.order import mean_near_median
from fedjax_mri.fed.uplink.reductions.krum import scores
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, each_value, squared_distances, uniform_weights


@dataclass(frozen=True)
class Bulyan:
    """Settings of Bulyan; it needs n >= 4 f + 3."""

    faulty: int = 1  # f, clients that may send anything

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        least = 4 * self.faulty + 3
        return matrix(Rule("bulyan", self._weigh, self._combine, self.faulty, least))

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        return uniform_weights(self._picked(vectors)), state

    def _picked(self, vectors: Vectors) -> jax.Array:
        squares, count = squared_distances(vectors), vectors.present.sum()

        def pick(_: int, left: jax.Array) -> jax.Array:
            found = jnp.nan_to_num(scores(squares, left, self.faulty))  # the last one left has no others
            return left & (jnp.arange(len(left)) != jnp.argmin(jnp.where(left, found, jnp.inf)))

        left: jax.Array = jax.lax.fori_loop(0, count - 2 * self.faulty, pick, vectors.present)
        return vectors.present & ~left

    def _combine(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[PyTree, State]:
        picked, count = self._picked(vectors), vectors.present.sum()
        return each_value(vectors, lambda block: mean_near_median(block, picked, count - 4 * self.faulty)), state
