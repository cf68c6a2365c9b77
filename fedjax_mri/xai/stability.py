"""Measures of how much a patient's map depends on the round, seed, client or algorithm that the model came from.

Maps are raw, float32 [B, H, W]; comparisons are [B]. Ranks and shares ignore a map's scale, which differs between
models; for SSIM the positive evidence is brought to 0..1 by its own maximum.
"""

import jax
import jax.numpy as jnp

from fedjax_mri.metrics import image
from fedjax_mri.metrics.ratio import ratio
from fedjax_mri.xai.faithfulness import pearson
from fedjax_mri.xai.measures import positive, ranks


def spearman(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the rank correlation, [B]; equal values share the mean of their ranks, and a map of one value gives nan.

    Spearman 1904; of explanations Adebayo et al. 2018, Sanity checks for saliency maps.
    """
    return pearson(mean_ranks(a), mean_ranks(b))


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the structural similarity of the positive evidence, [B], for 11 pixels or more a side.

    Wang et al. 2004.
    """
    return image.ssim(scaled(a)[..., None], scaled(b)[..., None], image.UNIT)


def top_overlap(a: jax.Array, b: jax.Array, share: float = 0.1) -> jax.Array:
    """Returns the share of the top pixels that is common to both maps, 0..1, [B].

    The top pixels are the `share` of all with the largest values.

    Top-k intersection of Ghorbani et al. 2019, Interpretation of neural networks is fragile; of equal values the first
    count.
    """
    k = max(1, round(share * a[0].size))
    return ((ranks(a) < k) & (ranks(b) < k)).sum(1).astype(jnp.float32) / k


def compare(a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
    """Returns all three comparisons of two maps, each [B]."""
    return {"rank correlation": spearman(a, b), "SSIM": ssim(a, b), "top tenth": top_overlap(a, b)}


def curves(maps: jax.Array) -> dict[str, jax.Array]:
    """Compares maps [R, B, H, W] of R states of a run with the state before each and with the last, [R, B].

    The first state has none before it: nan.
    """
    before = jax.lax.map(lambda pair: compare(*pair), (maps[1:], maps[:-1]))
    last = jax.lax.map(lambda one: compare(one, maps[-1]), maps)
    nothing = jnp.full((1, maps.shape[1]), jnp.nan, jnp.float32)
    found = {f"{name} to the one before": jnp.concatenate([nothing, value]) for name, value in before.items()}
    return found | {f"{name} to the last": value for name, value in last.items()}


def agreement(maps: jax.Array) -> dict[str, jax.Array]:
    """Returns how the maps [K, B, H, W] of K models agree in pairs: the mean over images, [K, K].

    Models may be of several seeds, clients or algorithms.
    """

    def row(one: jax.Array) -> dict[str, jax.Array]:
        found = jax.lax.map(lambda other: compare(one, other), maps)
        return {name: jnp.nanmean(value, 1) for name, value in found.items()}

    return jax.lax.map(row, maps)


def mean_ranks(maps: jax.Array) -> jax.Array:
    """Returns the rank of each pixel from the smallest, equal values sharing their mean, float32 [B, H * W]."""

    def one(values: jax.Array) -> jax.Array:
        order = jnp.sort(values)
        ends = [jnp.searchsorted(order, values, side=side) for side in ("left", "right")]
        return (ends[0] + ends[1]).astype(jnp.float32) / 2

    return jax.vmap(one)(maps.reshape(len(maps), -1))


def scaled(maps: jax.Array) -> jax.Array:
    """Returns the positive evidence over its own maximum, 0..1; 0 where there is none."""
    evidence = positive(maps)
    return jnp.nan_to_num(ratio(evidence, evidence.max((1, 2), keepdims=True)))
