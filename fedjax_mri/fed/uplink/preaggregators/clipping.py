"""Static clipping: vectors above a norm are scaled down to it."""

from dataclasses import dataclass

import jax

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.fed.uplink.reductions.matrix import Preaggregator
from fedjax_mri.fed.uplink.vectors import Vectors, norms, origin


@dataclass(frozen=True)
class Clipping:
    """Settings of static clipping."""

    bound: float = 2.0  # norm

    def build(self) -> Preaggregator:
        """Returns what scales down to the bound. Raises UserError unless it is positive."""
        positive("uplink.before clipping: bound", self.bound)
        return Preaggregator("clipping", lambda vectors, key: shortened(vectors, self.bound))


def shortened(vectors: Vectors, bound: jax.Array | float) -> Vectors:
    """Returns the vectors scaled down to norms of at most `bound`."""
    factor = trees.clip_factor(norms(vectors), bound)[:, None]
    return vectors._replace(mix=factor * vectors.mix + (1 - factor) * origin(vectors)[None])
