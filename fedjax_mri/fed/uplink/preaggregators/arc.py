"""Adaptive robust clipping.

Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan: Adaptive Gradient Clipping for Robust Federated Learning, ICLR 2025
(arXiv 2405.14432), algorithm 2: the k = floor(2 f (n - f) / n) longest vectors are scaled down to the norm of the
longest of the others.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.preaggregators.clipping import shortened
from fedjax_mri.fed.uplink.reductions.matrix import Preaggregator
from fedjax_mri.fed.uplink.vectors import Vectors, norms


@dataclass(frozen=True)
class ARC:
    """Settings of adaptive robust clipping."""

    faulty: int = 1  # f, clients that may send anything

    def build(self) -> Preaggregator:
        """Returns what scales down the longest vectors."""
        return Preaggregator("arc", self._change, self.faulty)

    def _change(self, vectors: Vectors, key: jax.Array) -> Vectors:
        count = vectors.present.sum()
        clipped = 2 * self.faulty * (count - self.faulty) // jnp.maximum(count, 1)
        return shortened(vectors, jnp.sort(norms(vectors))[count - clipped - 1])
