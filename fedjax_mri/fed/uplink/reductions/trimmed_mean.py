"""The coordinate-wise trimmed mean.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018
(arXiv 1803.01498), algorithm 1, option II: in each coordinate the f largest and the f smallest values are left out.
"""

from dataclasses import dataclass

from fedjax_mri.fed.uplink.contract import PyTree, Reduce, RoundContext, State
from fedjax_mri.fed.uplink.order import ranks_between, sum_by_rank
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, each_value


@dataclass(frozen=True)
class TrimmedMean:
    """Settings of the trimmed mean; it needs n > 2 f."""

    faulty: int = 1  # f, values left out at each end

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError if `faulty` is negative."""
        return matrix(Rule("trimmedmean", combine=self._combine, faulty=self.faulty, min_updates=2 * self.faulty + 1))

    def _combine(self, vectors: Vectors, state: State, at: RoundContext) -> tuple[PyTree, State]:
        kept = ranks_between(len(vectors.present), self.faulty, vectors.present.sum() - self.faulty)
        return each_value(vectors, lambda block: sum_by_rank(block, vectors.present, kept)), state
