"""Low rank: each matrix of an update as a product of two thin ones.

Vogels, Karimireddy, Jaggi: PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization, NeurIPS 2019
(arXiv 1905.13727). Each client sends its own two factors. It takes a few power iterations from a random start, since a
client that seldom takes part has no use for the factors of its last update.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.compress import Feedback, compressed
from fedjax_mri.fed.uplink.compressor import Compressor
from fedjax_mri.fed.uplink.contract import PyTree, Stage
from fedjax_mri.fed.uplink.fields import Field, Floats, Message


@dataclass(frozen=True)
class LowRank:
    """Settings of low rank; kernels of convolutions are matrices with a column for each channel of their output."""

    rank: int = 2
    iterations: int = 2  # of the power method
    feedback: Feedback = "ef"

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor(), self.feedback)

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError unless rank and iterations are 1 or more."""
        for name in ("rank", "iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"uplink.stages lowrank: {name}={getattr(self, name)}: must be 1 or more")
        return Compressor("lowrank", self._encode, self._decode, self._fields, contraction=True)

    def _encode(self, tree: PyTree, key: jax.Array, round: jax.Array) -> Message:
        message = list[jax.Array]()
        for number, leaf in enumerate(jax.tree.leaves(tree)):
            message += self._factors(leaf, jax.random.fold_in(key, number)) if self._is_low(leaf) else [leaf]
        return tuple(message)

    def _factors(self, leaf: jax.Array, key: jax.Array) -> list[jax.Array]:
        """Returns P [m, r] with orthonormal columns and Q [n, r], of which P Q' is near the matrix [m, n]."""
        matrix = leaf.reshape(-1, leaf.shape[-1])
        right = jax.random.normal(key, (matrix.shape[1], self.rank))
        for _ in range(self.iterations):
            left = jnp.linalg.qr(jnp.matmul(matrix, right, precision="highest"))[0]
            right = jnp.matmul(matrix.T, left, precision="highest")
        return [left, right]

    def _decode(self, message: Message, like: PyTree) -> PyTree:
        parts, leaves = iter(message), list[jax.Array]()
        for leaf in jax.tree.leaves(like):
            first = next(parts)
            if self._is_low(leaf):
                left, right = first.reshape(-1, self.rank), next(parts).reshape(-1, self.rank)
                first = jnp.matmul(left, right.T, precision="highest")
            leaves.append(first.reshape(leaf.shape))
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _fields(self, like: PyTree) -> tuple[Field, ...]:
        fields = list[Field]()
        for leaf in jax.tree.leaves(like):
            columns = leaf.shape[-1] if leaf.ndim else 1
            factors = [Floats(leaf.size // columns * self.rank), Floats(columns * self.rank)]
            fields += factors if self._is_low(leaf) else [Floats(leaf.size)]
        return tuple(fields)

    def _is_low(self, leaf: jax.Array) -> bool:
        """Returns whether a leaf is a matrix whose factors have fewer values than it has."""
        return leaf.ndim > 1 and self.rank * (leaf.size // leaf.shape[-1] + leaf.shape[-1]) < leaf.size
