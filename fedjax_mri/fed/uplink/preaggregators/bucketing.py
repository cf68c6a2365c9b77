"""Bucketing.

Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, ICLR 2022 (arXiv 2006.09365),
algorithm 1: the vectors are dealt at random into buckets of `size`, and each bucket becomes its mean. As many buckets
as there are faulty clients may be bad: a rule's `faulty` stays what it is.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.reductions.matrix import Preaggregator
from fedjax_mri.fed.uplink.vectors import Vectors, dot, uniform_weights


@dataclass(frozen=True)
class Bucketing:
    """Settings of bucketing; the draw is another one in each round."""

    size: int = 2  # vectors in a bucket; the last one may have fewer

    def build(self) -> Preaggregator:
        """Returns what averages buckets. Raises UserError unless they hold something."""
        if self.size < 1:
            raise UserError(f"uplink.before bucketing: size={self.size}: must be 1 or more")
        return Preaggregator("bucketing", self._change, places=lambda places: -(-places // self.size))

    def _change(self, vectors: Vectors, key: jax.Array) -> Vectors:
        drawn = jnp.where(vectors.present, jax.random.uniform(key, vectors.present.shape), jnp.inf)
        bucket = jnp.argsort(jnp.argsort(drawn)) // self.size  # absent ones come last
        inside = (bucket[None] == jnp.arange(-(-len(drawn) // self.size))[:, None]) & vectors.present[None]
        return vectors._replace(mix=dot(uniform_weights(inside), vectors.mix), present=inside.any(1))
