"""Classical fusion of registered images into one, as pure functions of a, b [B, H, W, 1] -> [B, H, W, 1].

Fusing an image with itself gives the image.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError

Fuse = Callable[[jax.Array, jax.Array], jax.Array]
Rule = Literal["average", "pca", "wavelet"]

LEVELS = 3  # of the wavelet transform, at most
TINY = 1e-12  # variance of flat images


def average(a: jax.Array, b: jax.Array, share: float | jax.Array = 0.5) -> jax.Array:
    """Returns the weighted mean with weight `share` of a and 1 - `share` of b."""
    return share * a + (1 - share) * b


def pca(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the mean weighted by the leading eigenvector of the pair's covariance over pixels (Naidu and Raol 2008).

    Its entries are taken without signs, as images that go against each other would cancel; flat images count alike.
    """
    x, y = (z - z.mean((1, 2, 3), keepdims=True) for z in (a, b))
    (xx, xy), yy = ((jnp.mean(x * z, (1, 2, 3)) for z in (x, y)), jnp.mean(y * y, (1, 2, 3)))
    half = (xx - yy) / 2
    root = jnp.sqrt(jnp.square(half) + jnp.square(xy))
    # (half + root, xy) and (xy, root - half) are the same direction: the first is exact where half > 0.
    first = jnp.where(half > 0, half + root, jnp.abs(xy))
    second = jnp.where(half > 0, jnp.abs(xy), root - half)
    flat = first + second < TINY
    share = jnp.where(flat, 0.5, first / jnp.where(flat, 1.0, first + second)).reshape(-1, 1, 1, 1)
    return average(a, b, share)


def wavelet(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the fusion of Haar coefficients (Li, Manjunath, Mitra 1995).

    It takes the mean of approximations, and of two details the one of larger size.
    """
    levels = next((level for level in range(LEVELS, 0, -1) if not any(side % 2**level for side in a.shape[1:3])), 0)
    return _wavelet(a, b, levels)


def _wavelet(a: jax.Array, b: jax.Array, levels: int) -> jax.Array:
    if levels == 0:
        return average(a, b)
    (low_a, *details_a), (low_b, *details_b) = haar(a), haar(b)
    details = (jnp.where(jnp.abs(x) >= jnp.abs(y), x, y) for x, y in zip(details_a, details_b))
    return unhaar(_wavelet(low_a, low_b, levels - 1), *details)


def haar(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the approximation and the details along rows, columns and both, [B, H/2, W/2, C] each.

    H and W even (Haar 1910).
    """
    a, b, c, d = (x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    return (a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2


def unhaar(low: jax.Array, across: jax.Array, down: jax.Array, both: jax.Array) -> jax.Array:
    """Returns the inverse of `haar`, which is its transpose."""
    a, b = low + across + down + both, low - across + down - both
    c, d = low + across - down - both, low - across - down + both
    rows = (jnp.stack(pair, 3).reshape(*a.shape[:2], -1, a.shape[3]) for pair in ((a, b), (c, d)))
    batch, height, width, channels = a.shape
    return (jnp.stack(list(rows), 2) / 2).reshape(batch, 2 * height, 2 * width, channels)


RULES: dict[str, Fuse] = {"average": average, "pca": pca, "wavelet": wavelet}


def fuse(rule: Rule, ct: jax.Array, mr: jax.Array, has: jax.Array) -> jax.Array:
    """Returns CT and MR fused by a rule; of a patient who has [B, 2] only one of them, that one as it is."""
    if rule not in RULES:
        raise UserError(f"task.classical={rule}: choose none, average, pca or wavelet")
    a, b = (has[:, i].reshape(-1, 1, 1, 1) > 0 for i in (0, 1))
    return RULES[rule](jnp.where(a, ct, mr), jnp.where(b, mr, ct))
