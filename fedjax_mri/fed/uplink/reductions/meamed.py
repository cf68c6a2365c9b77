"""The mean around the median.

Xie, Koyejo, Gupta: Generalized Byzantine-tolerant SGD, 2018 (arXiv 1802.10116): in each coordinate the mean of the
n - f values nearest the median.
"""

from dataclasses import dataclass

from fedjax_mri.fed.uplink.contract import PyTree, Reduce, RoundContext, State
from fedjax_mri.fed.uplink.order import mean_near_median
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, each_value


@dataclass(frozen=True)
class MeaMed:
    """Settings of the mean around the median; it needs n > 2 f."""

    faulty: int = 1  # f, values left out

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        return matrix(Rule("meamed", combine=self._combine, faulty=self.faulty, min_updates=2 * self.faulty + 1))

    def _combine(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[PyTree, State]:
        count = vectors.present.sum() - self.faulty
        return each_value(vectors, lambda block: mean_near_median(block, vectors.present, count)), state
