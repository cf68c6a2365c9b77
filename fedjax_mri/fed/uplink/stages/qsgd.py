"""QSGD: stochastic rounding to levels of a bucket's norm.

Alistarh, Grubic, Li, Tomioka, Vojnovic: QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding,
NeurIPS 2017 (arXiv 1610.02132), section 3.1. Levels have a fixed number of bits here, not Elias codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.compress import compressed
from fedjax_mri.fed.uplink.compressor import Compressor, bucket_count, buckets, on_vector
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.fields import Field, Floats, Integers, Message, width_of


@dataclass(frozen=True)
class QSGD:
    """Settings of QSGD: each value is rounded to one of `levels` shares of its bucket's norm; the mean is right."""

    levels: int = 3  # above 0; a value takes one bit for its sign and ceil(log2(levels + 1)) for its level
    bucket: int = 128  # values that share a norm; 0: all

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `stochastic` does."""
        return compressed(self.compressor())

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError as `stochastic` does."""
        return stochastic("qsgd", self.levels, self.bucket, lambda rows: jnp.sqrt(jnp.sum(jnp.square(rows), 1)))


def stochastic(
    name: str,
    levels: int,
    bucket: int,
    norm: Callable[[jax.Array], jax.Array],
    before: Callable[[jax.Array], jax.Array] = lambda rows: rows,
) -> Compressor:
    """Returns the compressor that rounds values up or down at random to levels of their bucket's `norm`, unbiased.

    norm: buckets [n, size] -> [n], at least the largest magnitude in each. before: what is done to the buckets first.
    Raises UserError if `levels` is not 1 to 65,535, or `bucket` is negative.
    """
    if not 1 <= levels < 2**16:
        raise UserError(f"uplink.stages {name}: levels={levels}: must be 1 to {2**16 - 1}")
    if bucket < 0:
        raise UserError(f"uplink.stages {name}: bucket={bucket}: must be 1 or more values, or 0 for all in one")
    width = 1 + width_of(levels + 1)

    def encode(vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
        rows = before(buckets(vector, bucket))
        norms = norm(rows)
        shares = jnp.abs(rows) / jnp.maximum(norms, 1e-30)[:, None]
        level = jnp.minimum(jnp.floor(levels * shares + jax.random.uniform(key, rows.shape)), levels)
        codes = 2 * level.astype(jnp.uint32) + (rows < 0).astype(jnp.uint32)
        return codes.ravel()[: len(vector)], norms

    def decode(message: Message, values: int) -> jax.Array:
        codes, norms = message
        signed = (codes >> 1).astype(jnp.float32) * (1.0 - 2.0 * (codes & 1).astype(jnp.float32))
        rows = buckets(signed, bucket) * (norms / levels)[:, None]
        return rows.ravel()[:values]

    def fields(values: int) -> tuple[Field, ...]:
        return Integers(values, width), Floats(bucket_count(values, bucket))

    return on_vector(name, encode, decode, fields)
