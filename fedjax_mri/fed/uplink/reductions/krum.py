"""Krum and Multi-Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent,
NeurIPS 2017 (arXiv 1703.02757): the score of an update is the sum of its squared distances to its n - f - 2 nearest
others. Krum takes the update with the least score, Multi-Krum the mean of the m best. (The package byzfl sums n - f - 1
of them.)
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, State
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, nearest, pairs, squared_distances, uniform_weights


@dataclass(frozen=True)
class Krum:
    """Settings of Krum; it needs n >= 2 f + 3."""

    faulty: int = 1  # f, clients that may send anything

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        return matrix(Rule("krum", self._weigh, faulty=self.faulty, min_updates=2 * self.faulty + 3))

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        found = scores(squared_distances(vectors), vectors.present, self.faulty)
        return uniform_weights(nearest(found, 1)), state


@dataclass(frozen=True)
class MultiKrum:
    """Settings of Multi-Krum; it needs n > 2 f. The paper promises nothing for n < 2 f + 3.

    For n < f + 3 a score is the distance to the nearest other.
    """

    faulty: int = 1  # f, clients that may send anything
    best: int = 0  # m, updates that are averaged; 0: n - f

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if a number is negative."""
        if self.best < 0:
            raise UserError(f"uplink.reduce multikrum: best={self.best}: must be 0, for n - f, or more updates")
        return matrix(
            Rule("multikrum", self._weigh, faulty=self.faulty, min_updates=max(2 * self.faulty + 1, self.best))
        )

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        found = scores(squared_distances(vectors), vectors.present, self.faulty)
        return uniform_weights(nearest(found, self.best or vectors.present.sum() - self.faulty)), state


def scores(squares: jax.Array, among: jax.Array, faulty: int) -> jax.Array:
    """Returns the score of each vector among those that are `among` [M], float32 [M]; infinity for the others.

    `squares` [M, M] are the squared distances.
    """
    others = pairs(among) & ~jnp.eye(len(among), dtype=bool)
    count = jnp.maximum(among.sum() - faulty - 2, 1)
    ordered = jnp.sort(jnp.where(others, squares, jnp.inf), 1)
    return jnp.where(among, jnp.sum(jnp.where(jnp.arange(len(among)) < count, ordered, 0.0), 1), jnp.inf)
