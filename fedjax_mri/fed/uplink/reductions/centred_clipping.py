"""Centred clipping.

Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization, ICML 2021 (arXiv 2012.10333): from the
result of the round before, the server moves by the mean of the differences to the updates, each of bounded norm.
"""

from dataclasses import dataclass
from functools import partial

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import PyTree, Reduce, RoundContext, State, refuse_statistics
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, distances_from, mean, uniform_weights


@dataclass(frozen=True)
class CentredClipping:
    """Settings of centred clipping; its state is the result of the round before, zeros at first."""

    radius: float = 100.0  # tau, bound of the norm of a difference; set it near the norm of honest differences
    steps: int = 1

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError unless both settings are positive."""
        positive("uplink.reduce centredclipping: radius", self.radius)
        if self.steps < 1:
            raise UserError(f"uplink.reduce centredclipping: steps={self.steps}: must be 1 or more")
        init = lambda sent: trees.zeros_like(sent.delta)  # noqa: E731
        check = partial(
            refuse_statistics, part="uplink.reduce centredclipping", subject="the result of the round before is"
        )
        return matrix(Rule("centredclipping", combine=self._combine, init=init, check_compatible=check))

    def _combine(self, vectors: Vectors, centre: State, at: RoundContext) -> tuple[PyTree, State]:
        for _ in range(self.steps):
            factor = trees.clip_factor(distances_from(vectors, centre), self.radius)
            weights = factor * uniform_weights(vectors.present)
            centre = trees.add(trees.scale(1 - weights.sum(), centre), mean(vectors, weights))
        return centre, centre
