"""Noise that is correlated over rounds, so that much of it cancels in the sum over rounds, which is what the model is.

Banded matrix factorisation of prefix sums by Toeplitz matrices: with C the lower triangular Toeplitz matrix of the
series of (1 - x)^(-1/2), cut to `bands` coefficients (Kalinin and Lampert 2024, arXiv 2405.13763), the noise of round t
is row t of C^(-1) Z with Z independent. The released sequence is C^(-1)(C X + Z): what must be protected is C X. A
client that takes part at least `bands` rounds apart changes columns of C that do not overlap, so that k times cost as
much as k independent releases, or one with sqrt(k) times the norm of a column, which is 1 here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.fed.uplink.contract import PyTree


def coefficients(bands: int) -> np.ndarray:
    """Returns the first column of C, float64 [bands], of norm 1."""
    factors = [1.0, *((2 * j - 1) / (2 * j) for j in range(1, bands))]
    column = np.cumprod(factors)
    return column / np.linalg.norm(column)


def correlate(bands: int, fresh: PyTree, earlier: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the noise of this round, and that of the last bands - 1 rounds [bands - 1, ...] for the next one.

    `fresh` is independent standard normal noise. By back substitution, noise = (fresh - sum of c_j times that of j
    rounds ago) / c_0. With one band the noise is `fresh`.
    """
    if bands == 1:
        return fresh, earlier
    first, *rest = coefficients(bands).tolist()
    weights = jnp.asarray(rest, jnp.float32)
    noise = jax.tree.map(lambda z, w: (z - jnp.tensordot(weights, w, 1)) / first, fresh, earlier)
    shifted = jax.tree.map(lambda n, w: jnp.concatenate([n[None], w[:-1]]), noise, earlier)
    return noise, shifted
