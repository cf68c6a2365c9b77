"""The coordinate-wise median.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018
(arXiv 1803.01498), algorithm 1, option I: each coordinate of the server's step is the median over clients.
"""

from dataclasses import dataclass

from fedjax_mri.fed.uplink.contract import PyTree, Reduce, RoundContext, State
from fedjax_mri.fed.uplink.order import median_weights, sum_by_rank
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, each_value


@dataclass(frozen=True)
class Median:
    """Settings of the median of each coordinate over the clients that sent an update."""

    def build(self) -> Reduce:
        """Returns the reduction."""
        return matrix(Rule("median", combine=median))


def median(vectors: Vectors, state: State, at: RoundContext) -> tuple[PyTree, State]:
    """Returns the median of each coordinate over the clients that sent an update."""
    return each_value(
        vectors, lambda block: sum_by_rank(block, vectors.present, median_weights(vectors.present))
    ), state
