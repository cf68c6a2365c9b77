"""TernGrad: values become -1, 0 or 1 times the largest magnitude of their bucket.

Wen, Xu, Yan, Wu, Wang, Chen, Li: TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning,
NeurIPS 2017 (arXiv 1705.07878), with its clipping of gradients. Buckets take the place of layers.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.checks import not_negative
from fedjax_mri.fed.uplink.compress import compressed
from fedjax_mri.fed.uplink.compressor import Compressor
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.stages.qsgd import stochastic


@dataclass(frozen=True)
class TernGrad:
    """Settings of TernGrad. Without clipping the mean over many draws is right."""

    clip: float = 2.5  # values are clipped at so many standard deviations of their bucket; 0: they are not
    bucket: int = 512  # values that share a largest magnitude; 0: all

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor())

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError on settings out of range."""
        not_negative("uplink.stages terngrad: clip", self.clip)
        return stochastic("terngrad", 1, self.bucket, lambda rows: jnp.max(jnp.abs(rows), 1), self._clipped)

    def _clipped(self, rows: jax.Array) -> jax.Array:
        if not self.clip:
            return rows
        limit = self.clip * jnp.std(rows, 1, keepdims=True)
        return jnp.clip(rows, -limit, limit)
