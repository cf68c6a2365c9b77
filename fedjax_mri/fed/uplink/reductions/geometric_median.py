"""The geometric median, by smoothed Weiszfeld steps.

Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning, IEEE Transactions on Signal Processing 2022
(arXiv 1912.13445), algorithm 2, with equal weights, from an update of zeros.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.checks import positive
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, State
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, distances_to, dot, origin


@dataclass(frozen=True)
class GeometricMedian:
    """Settings of the geometric median; it withstands less than half of the clients."""

    smooth: float = 0.1  # distances below this count as this; set it well below those of honest updates
    steps: int = 3

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError unless both settings are positive."""
        positive("uplink.reduce geometricmedian: smooth", self.smooth)
        if self.steps < 1:
            raise UserError(f"uplink.reduce geometricmedian: steps={self.steps}: must be 1 or more")
        return matrix(Rule("geometricmedian", self._weigh))

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        def step(_: int, weights: jax.Array) -> jax.Array:
            point = dot(weights, vectors.mix) + (1 - weights.sum()) * origin(vectors)
            closeness = 1 / jnp.maximum(distances_to(vectors, point), self.smooth)
            return closeness / closeness.sum()

        return jax.lax.fori_loop(0, self.steps, step, jnp.zeros(len(vectors.present))), state
