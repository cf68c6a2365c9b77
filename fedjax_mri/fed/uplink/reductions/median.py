"""The coordinate-wise median.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018
(arXiv 1803.01498), algorithm 1, option I: each coordinate of the server's step is the median over clients.
Weights are ignored.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.contract import PyTree, Reduce, ServerRound, State
from fedjax_mri.fed.uplink.reductions.matrix import Rows, Rule, matrix


@dataclass(frozen=True)
class Median:
    """Settings of the median of each coordinate over the clients that sent an update."""

    def build(self) -> Reduce:
        """Returns the reduction."""
        return matrix(Rule("median", median))


def median(rows: Rows, state: State, at: ServerRound) -> tuple[PyTree, State]:
    """Returns the median of each coordinate over the clients that sent an update; zeros if none did."""
    count = rows.sent.sum().astype(jnp.int32)

    def middle(leaf: jax.Array) -> jax.Array:
        present = rows.sent.reshape(-1, *(1 for _ in leaf.shape[1:])) > 0
        ordered = jnp.sort(jnp.where(present, leaf, jnp.inf), 0)  # empty rows come last
        low, high = ordered[jnp.maximum(count - 1, 0) // 2], ordered[count // 2]
        return jnp.where(count > 0, (low + high) / 2, jnp.zeros_like(low))

    return jax.tree.map(middle, rows.delta), state
