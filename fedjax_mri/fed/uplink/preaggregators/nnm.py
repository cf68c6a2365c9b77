"""Nearest neighbour mixing.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan: Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity, AISTATS 2023 (arXiv 2302.01772), algorithm 2: each vector becomes the mean of the n - f nearest it,
itself included.
"""

from dataclasses import dataclass

import jax

from fedjax_mri.fed.uplink.reductions.matrix import Preaggregator
from fedjax_mri.fed.uplink.vectors import Vectors, dot, nearest, squared_distances, uniform_weights


@dataclass(frozen=True)
class NNM:
    """Settings of nearest neighbour mixing."""

    faulty: int = 1  # f, vectors that each one leaves out

    def build(self) -> Preaggregator:
        """Returns what mixes vectors."""
        return Preaggregator("nnm", self._change, self.faulty)

    def _change(self, vectors: Vectors, key: jax.Array) -> Vectors:
        near = nearest(squared_distances(vectors), vectors.present.sum() - self.faulty)
        return vectors._replace(mix=dot(uniform_weights(near), vectors.mix))
