"""DRIVE: signs after a random rotation.

Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher: DRIVE: One-bit Distributed Mean Estimation, NeurIPS
2021 (arXiv 2105.08339), with the structured rotation of section 6 and the scale of theorem 3, by which the mean over
rotations is right. After a rotation all coordinates are alike, so that a share of them tells of all.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.checks import positive_share
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.client.shuffle import shuffled
from fedjax_mri.fed.uplink.compress import compressed
from fedjax_mri.fed.uplink.compressor import Compressor, bucket_count, buckets, on_vector, share_of
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.fields import Field, Floats, Integers, Message


@dataclass(frozen=True)
class Drive:
    """Settings of DRIVE."""

    share: float = 1.0  # of the rotated coordinates whose signs are sent
    block: int = 4096  # values that are rotated together, a power of two

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor())

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError unless 0 < share <= 1 and the block is a power of two."""
        positive_share("uplink.stages drive: share", self.share)
        if self.block < 2 or self.block & (self.block - 1):
            raise UserError(f"uplink.stages drive: block={self.block}: must be a power of two, such as 4096")
        return on_vector("drive", self._encode, self._decode, self._fields)

    def _encode(self, vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
        seed, rows = jax.random.bits(key, (), jnp.uint32), buckets(vector, self.block)
        sent = hadamard(rows * _signs(seed, rows.shape))[:, self._columns(seed)]
        scales = jnp.sum(jnp.square(rows), 1) / jnp.maximum(jnp.sum(jnp.abs(sent), 1), 1e-30)
        return seed, (sent < 0).astype(jnp.uint32), scales

    def _decode(self, message: Message, values: int) -> jax.Array:
        seed, negative, scales = message
        signs = 1.0 - 2.0 * negative.astype(jnp.float32).reshape(len(scales), -1)
        rows = jnp.zeros((len(scales), self.block)).at[:, self._columns(seed.reshape(()))].set(signs * scales[:, None])
        return (hadamard(rows) * _signs(seed.reshape(()), rows.shape)).ravel()[:values]

    def _columns(self, seed: jax.Array) -> jax.Array:
        """Returns the rotated coordinates whose signs are sent, in each block the same."""
        count = jnp.arange(share_of(self.share, self.block), dtype=jnp.int32)
        return count if self.share == 1 else shuffled(jax.random.key(seed), count, jnp.int32(self.block))

    def _fields(self, values: int) -> tuple[Field, ...]:
        count = bucket_count(values, self.block)
        return Integers(1, 32), Integers(count * share_of(self.share, self.block), 1), Floats(count)


def hadamard(rows: jax.Array) -> jax.Array:
    """Returns each row of [n, 2^m] times the Hadamard matrix (Sylvester's) over 2^(m/2), which is its own inverse.

    The matrix is the Kronecker product of two smaller ones.
    """
    size = rows.shape[1]
    first = 1 << (size.bit_length() // 2)
    left, right = (jnp.asarray(_matrix(n)) for n in (first, size // first))
    turned = jnp.einsum("ij,njk,kl->nil", left, rows.reshape(-1, first, size // first), right, precision="highest")
    return turned.reshape(rows.shape) / np.sqrt(size).astype(np.float32)


def _matrix(size: int) -> np.ndarray:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _signs(seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.rademacher(jax.random.key(seed), shape, jnp.float32)
