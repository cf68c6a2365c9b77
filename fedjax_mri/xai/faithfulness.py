"""Measures of whether a map says what the network does: pixels are taken away or brought back, and scores compared.

`scores` maps x float32 [B, H, W, C] to logits [B, K]; target is int [B], maps [B, H, W] raw. What stands where nothing
is to be seen is `baseline`, broadcast to x: black, a mean, a blurred image. It is part of the figure: name it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_mri.metrics.ratio import ratio
from fedjax_mri.xai.measures import ranks
from fedjax_mri.xai.method import Scores, target_logit

Explain = Callable[[jax.Array], jax.Array]  # x -> maps [B, H, W]


def deletion(
    scores: Scores, x: jax.Array, target: jax.Array, maps: jax.Array, baseline: jax.Array | float = 0.0, steps: int = 16
) -> jax.Array:
    """Returns the area under the target's probability as pixels go, the largest first, [B]: lower is better.

    Petsiuk et al. 2018 (RISE), section 4.2; `steps` equal shares of the pixels, by the trapezoidal rule.
    """
    return area(curve(scores, x, target, maps, baseline, steps))


def insertion(
    scores: Scores, x: jax.Array, target: jax.Array, maps: jax.Array, baseline: jax.Array | float = 0.0, steps: int = 16
) -> jax.Array:
    """Returns the area under the target's probability as pixels come, the largest first, [B]: higher is better.

    Petsiuk et al. 2018 (RISE).
    """
    return area(curve(scores, jnp.broadcast_to(jnp.asarray(baseline, x.dtype), x.shape), target, maps, x, steps))


def curve(
    scores: Scores, x: jax.Array, target: jax.Array, maps: jax.Array, other: jax.Array | float, steps: int
) -> jax.Array:
    """Returns the target's probability as pixels of x become those of `other`, [B, steps + 1].

    Pixels with the largest values of the map come first.
    """
    order = ranks(maps).reshape(maps.shape)[..., None]
    pixels = maps[0].size

    def one(step: jax.Array) -> jax.Array:
        mixed = jnp.where(order < (step * pixels) // steps, jnp.asarray(other, x.dtype), x)
        return target_logit(lambda x: jax.nn.softmax(scores(x)), mixed, target)

    return jax.lax.map(one, jnp.arange(steps + 1, dtype=jnp.int32)).T


def area(curves: jax.Array) -> jax.Array:
    """Returns the mean height of curves [B, n] by the trapezoidal rule, [B]."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2


def correlation(
    scores: Scores,
    x: jax.Array,
    target: jax.Array,
    maps: jax.Array,
    key: jax.Array,
    baseline: jax.Array | float = 0.0,
    subsets: int = 64,
    share: float = 0.2,
    patch: int = 4,
) -> jax.Array:
    """Returns Pearson's correlation, over random subsets, of what the map gives a subset and what the score loses.

    Faithfulness correlation, Bhatt et al. 2020 (arXiv 2005.00631), eq. 2; [B], nan for a map or score that is flat.
    A feature is a square of `patch` pixels, and a subset has about `share` of them, the same for all images.
    """
    height, width = maps.shape[1:]
    coarse = jax.random.bernoulli(key, share, (subsets, -(-height // patch), -(-width // patch)))
    gone = jnp.repeat(jnp.repeat(coarse, patch, 1), patch, 2)[:, :height, :width]

    def one(out: jax.Array) -> jax.Array:
        without = jnp.where(out[None, :, :, None], jnp.asarray(baseline, x.dtype), x)
        return target_logit(scores, without, target)

    lost = target_logit(scores, x, target)[:, None] - jax.lax.map(one, gone).T
    given = jnp.einsum("bhw,shw->bs", maps, gone.astype(maps.dtype), precision="highest")
    return pearson(given, lost)


def max_sensitivity(
    explain: Explain, x: jax.Array, key: jax.Array, radius: float = 0.02, samples: int = 8
) -> jax.Array:
    """Returns how far the map can move, relative to its norm, when x is disturbed by less than `radius` a pixel, [B].

    The largest over `samples` uniform disturbances (Yeh et al. 2019, On the (in)fidelity and sensitivity of
    explanations, definition 3.1). 0 is best; nan for an empty map.
    """
    before = explain(x)

    def one(key: jax.Array) -> jax.Array:
        noise = jax.random.uniform(key, x.shape, x.dtype, -radius, radius)
        return norm(explain(x + noise) - before)

    moved = jax.lax.map(one, jax.random.split(key, samples)).max(0)
    return ratio(moved, norm(before))


def norm(maps: jax.Array) -> jax.Array:
    """Returns the Euclidean norm of maps [B, H, W], [B]."""
    return jnp.sqrt(jnp.square(maps).sum((1, 2)))


def pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the correlation along the last axis of [..., n], [...]; nan where either is constant."""
    a, b = (values - values.mean(-1, keepdims=True) for values in (a, b))
    return ratio((a * b).sum(-1), jnp.sqrt(jnp.square(a).sum(-1)) * jnp.sqrt(jnp.square(b).sum(-1)))
