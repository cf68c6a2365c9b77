"""Measures of a map by itself and of how it agrees with the true lesion, one figure per image.

Maps are raw, float32 [B, H, W], and never scaled image by image: a map whose own maximum is its unit says nothing of
how strongly a network responded. Evidence for the class is positive; where a measure needs shares or places, only
that counts. Masks are [B, H, W], 0 outside; one with soft edges weighs pixels, or counts those of half or more where
pixels are counted. What cannot be said of an image is nan: no lesion, no evidence.
"""

import jax
import jax.numpy as jnp

from fedjax_mri.metrics.ratio import ratio

HALF = 0.5  # of the reference above which a pixel is highlighted


def activation_intensity(maps: jax.Array, scale: jax.Array | float = 1.0, share: float = HALF) -> jax.Array:
    """Returns the mean of the map over the region that it highlights, over `scale`, 0..1, [B].

    scale [] or [B], in the map's own units: the largest value over reference images, the same for all that are
    compared. Highlighted: `share` of the map's own maximum or more. System A (its XAI metrics, "activation intensity").
    """
    evidence = positive(maps)
    region = highlighted(evidence, share)
    mean = ratio(inside(evidence, region), inside(region, region))
    return jnp.minimum(mean / jnp.asarray(scale, jnp.float32), jnp.float32(1))


def region_coverage(
    maps: jax.Array, brain: jax.Array, scale: jax.Array | float = 1.0, share: float = HALF
) -> jax.Array:
    """Returns the share of the brain where the map exceeds `share` of `scale`, [B]; brain is a mask, scale as above.

    System A (its XAI metrics, "region coverage"). With the map's own maximum as scale it tells how diffuse a map is,
    with a common one also how strong.
    """
    threshold = jnp.asarray(scale, jnp.float32).reshape(-1, 1, 1) * jnp.float32(share)
    return ratio(inside((maps > threshold).astype(jnp.float32), brain), inside(jnp.ones_like(maps), brain))


def pointing_game(maps: jax.Array, masks: jax.Array, tolerance: int = 0) -> jax.Array:
    """Returns 1 where the map's maximum lies in the lesion, or within `tolerance` pixels of it, else 0, [B].

    Of equal maxima the first counts, and a map of one value points nowhere. Zhang et al. 2018, Top-down neural
    attention by excitation backprop, section 4.1.
    """
    flat = maps.reshape(len(maps), -1)
    there = dilated(binary(masks), tolerance).reshape(flat.shape)
    hit = jnp.take_along_axis(there, jnp.argmax(flat, 1)[:, None], 1)[:, 0]
    hit = jnp.where(flat.max(1) > flat.min(1), hit, 0.0)
    return jnp.where(binary(masks).max((1, 2)) > 0, hit, jnp.nan)


def energy_inside(maps: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns the share of the positive evidence that lies in the lesion, [B].

    The energy-based pointing game of Wang et al. 2020 (Score-CAM, section 4.3); relevance mass accuracy of Arras et al.
    2022 (CLEVR-XAI).
    """
    evidence = positive(maps)
    share = ratio(inside(evidence, masks), evidence.sum((1, 2)))
    return jnp.where(masks.max((1, 2)) > 0, share, jnp.nan)


def iou_at_matched_area(maps: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns the intersection over union of the lesion of k pixels and the k pixels of the largest values, [B].

    With r the share of these k in the lesion (relevance rank accuracy, Arras et al. 2022) it is r / (2 - r); no
    threshold is chosen, as Choe et al. 2020 ask. Of equal values the first count.
    """
    lesion = binary(masks).reshape(len(masks), -1)
    area = lesion.sum(1)
    top = (ranks(maps).astype(jnp.float32) < area[:, None]).astype(jnp.float32)
    common = (top * lesion).sum(1)
    return ratio(common, 2 * area - common)


def gini(maps: jax.Array) -> jax.Array:
    """Returns the sparseness of the map's magnitudes, [B].

    It is 0 where all are equal, and 1 - 1/n where one of n pixels has all.

    Hurley and Rickard 2009, Comparing measures of sparsity, table I; of explanations Chalasani et al. 2020.
    """
    size = jnp.sort(jnp.abs(maps).reshape(len(maps), -1), 1)
    n = size.shape[1]
    weight = (n - jnp.arange(1, n + 1, dtype=jnp.float32) + 0.5) / n
    return 1 - 2 * ratio((size * weight[None]).sum(1), size.sum(1))


def complexity(maps: jax.Array) -> jax.Array:
    """Returns the entropy in nats of the map's magnitudes as shares, [B].

    It is ln n where all n are equal (Bhatt et al. 2020, eq. 3).
    """
    size = jnp.abs(maps).reshape(len(maps), -1)
    share = ratio(size, size.sum(1, keepdims=True))
    return -jnp.where(share == 0, 0.0, share * jnp.log(jnp.where(share == 0, 1.0, share))).sum(1)


def against_mask(maps: jax.Array, masks: jax.Array) -> dict[str, jax.Array]:
    """Returns all measures that need the true lesion, each [B]."""
    return {
        "pointing": pointing_game(maps, masks),
        "energy inside": energy_inside(maps, masks),
        "IoU": iou_at_matched_area(maps, masks),
    }


def positive(maps: jax.Array) -> jax.Array:
    """Returns the evidence for the class: positive values, 0 elsewhere."""
    return jnp.maximum(maps, jnp.float32(0))


def highlighted(maps: jax.Array, share: float = HALF) -> jax.Array:
    """Returns 1 where the map has `share` of its own positive maximum or more, else 0, [B, H, W]."""
    most = maps.max((1, 2), keepdims=True)
    return ((maps >= jnp.float32(share) * most) & (most > 0)).astype(jnp.float32)


def binary(masks: jax.Array) -> jax.Array:
    """Returns a mask of zeros and ones: 1 where half or more of a pixel lies inside."""
    return (masks >= HALF).astype(jnp.float32)


def inside(maps: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns the sum of a map over a mask, [B]."""
    return (maps * masks.astype(jnp.float32)).sum((1, 2))


def ranks(maps: jax.Array) -> jax.Array:
    """Returns the place of each pixel in the order from the largest value, 0 first, int32 [B, H * W].

    Equal values are in order.
    """
    order = jnp.argsort(-maps.reshape(len(maps), -1), axis=1)
    return jnp.argsort(order, axis=1).astype(jnp.int32)


def dilated(masks: jax.Array, pixels: int) -> jax.Array:
    """Returns the masks and all within `pixels` of them, in the maximum norm."""
    side = 2 * pixels + 1
    return jax.lax.reduce_window(masks, -jnp.inf, jax.lax.max, (1, side, side), (1, 1, 1), "SAME")
