"""Codebooks: each value becomes the nearest of a few, which k-means finds (Han, Mao, Dally 2016, arXiv 1510.00149)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.compress import Feedback, compressed
from fedjax_mri.fed.uplink.compressor import Compressor, on_vector
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.fields import Field, Floats, Integers, Message


@dataclass(frozen=True)
class Codebook:
    """Settings of codebooks."""

    bits: int = 3  # of a value: there are 2^bits centres
    steps: int = 10  # of k-means
    feedback: Feedback = "ef"

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor(), self.feedback)

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError unless there are 1 to 12 bits and a step."""
        if not 1 <= self.bits <= 12:
            raise UserError(f"uplink.stages codebook: bits={self.bits}: must be 1 to 12")
        if self.steps < 1:
            raise UserError(f"uplink.stages codebook: steps={self.steps}: must be 1 or more")
        return on_vector("codebook", self._encode, _decode, self._fields, contraction=True)

    def _encode(self, vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
        centres = self._centres(jnp.sort(vector))
        return jnp.searchsorted(between(centres), vector).astype(jnp.uint32), centres

    def _centres(self, values: jax.Array) -> jax.Array:
        """Returns the ascending centres, float32 [2^bits], of ascending `values` [d], by Lloyd's algorithm.

        It starts from the values at even ranks. Sums of neighbours are differences of one running sum, in any order
        of lanes the same. A centre without values stays where it is.
        """
        count = 2**self.bits
        sums = jnp.concatenate([jnp.zeros(1), jnp.cumsum(values)])

        def step(_: int, centres: jax.Array) -> jax.Array:
            ends = jnp.searchsorted(values, between(centres)).astype(jnp.int32)
            ends = jnp.concatenate([jnp.zeros(1, jnp.int32), ends, jnp.full(1, len(values), jnp.int32)])
            sizes = jnp.diff(ends).astype(jnp.float32)
            return jnp.where(sizes > 0, jnp.diff(sums[ends]) / jnp.maximum(sizes, 1), centres)

        ranks = (2 * np.arange(count) + 1) * len(values) // (2 * count)
        return jax.lax.fori_loop(0, self.steps, step, values[ranks])

    def _fields(self, values: int) -> tuple[Field, ...]:
        return Integers(values, self.bits), Floats(2**self.bits)


def _decode(message: Message, values: int) -> jax.Array:
    return message[1][message[0]]


def between(centres: jax.Array) -> jax.Array:
    """Returns the middles between neighbours, one fewer than there are centres."""
    return (centres[1:] + centres[:-1]) / 2
