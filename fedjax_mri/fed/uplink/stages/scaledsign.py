"""Scaled signs: the sign of each value times the mean magnitude.

Karimireddy, Rebjock, Stich, Jaggi: Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019
(arXiv 1901.09847), which also shows that signs need error feedback.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.compress import Feedback, compressed
from fedjax_mri.fed.uplink.compressor import Compressor, bucket_count, buckets, on_vector
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.fields import Field, Floats, Integers, Message


@dataclass(frozen=True)
class ScaledSign:
    """Settings of scaled signs."""

    bucket: int = 0  # values that share a mean magnitude; 0: all
    feedback: Feedback = "ef"

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor(), self.feedback)

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError if `bucket` is negative."""
        if self.bucket < 0:
            raise UserError(f"uplink.stages scaledsign: bucket={self.bucket}: must be 1 or more values, or 0 for all")
        return on_vector("scaledsign", self._encode, self._decode, self._fields, contraction=True)

    def _encode(self, vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
        sizes = buckets(jnp.ones_like(vector), self.bucket).sum(1)
        return (vector < 0).astype(jnp.uint32), jnp.abs(buckets(vector, self.bucket)).sum(1) / sizes

    def _decode(self, message: Message, values: int) -> jax.Array:
        signs = 1.0 - 2.0 * message[0].astype(jnp.float32)
        return (buckets(signs, self.bucket) * message[1][:, None]).ravel()[:values]

    def _fields(self, values: int) -> tuple[Field, ...]:
        return Integers(values, 1), Floats(bucket_count(values, self.bucket))
