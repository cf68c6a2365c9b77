"""The mean of updates of bounded norm.

Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019 (arXiv 1911.07963): each update is
scaled down to a norm of at most `bound`.
"""

from dataclasses import dataclass

import jax

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, State
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, norms, uniform_weights


@dataclass(frozen=True)
class NormBound:
    """Settings of the mean of bounded updates: each client moves the result by at most bound / n."""

    bound: float = 1.0

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError unless the bound is positive."""
        positive("uplink.reduce normbound: bound", self.bound)
        return matrix(Rule("normbound", self._weigh))

    def _weigh(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[jax.Array, State]:
        return trees.clip_factor(norms(vectors), self.bound) * uniform_weights(vectors.present), state
