"""Losses of images [B, H, W, C] and of discriminators' scores; one figure per example [B]."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.metrics import image
from fedjax_mri.metrics.structure import responses
from fedjax_mri.tasks.task import Encoder

GAN = Literal["vanilla", "lsgan"]
TINY = 1e-6  # a mean square of responses below which an image has no structure


def adversarial(kind: GAN, scores: jax.Array | Sequence[jax.Array], truth: float) -> jax.Array:
    """Returns the loss [B] of scores of patches [B, h, w, 1], added over scales, against `truth`: 1 real, 0 made.

    lsgan     mean (s - truth)^2 (Mao et al. 2017)
    vanilla   mean of the cross entropy of sigmoid(s), softplus(s) - truth s (Goodfellow et al. 2014)
    """
    each = {"lsgan": lambda s: jnp.square(s - truth), "vanilla": lambda s: jax.nn.softplus(s) - truth * s}[kind]
    return sum((each(s).mean((1, 2, 3)) for s in jax.tree.leaves(scores)), start=jnp.float32(0))


def dissimilarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns 1 - SSIM of images in 0..1, with Wang's window."""
    return 1 - image.ssim(x, y, image.WANG)


def gradient_difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean | |dx| - |dy| | of neighbours in a row and in a column, added.

    Mathieu et al. 2016, with alpha 1.
    """

    def along(axis: int) -> jax.Array:
        return jnp.abs(jnp.abs(jnp.diff(x, axis=axis)) - jnp.abs(jnp.diff(y, axis=axis))).mean((1, 2, 3))

    return along(1) + along(2)


def perceptual(encoder: Encoder, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the sum over feature maps f of mean (f(x) - f(y))^2 (Johnson et al. 2016, feature reconstruction)."""
    return sum((image.mse(a, b) for a, b in zip(encoder(x), encoder(y), strict=True)), start=jnp.float32(0))


def structure(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the neuro-symbolic loss: mean (n(x) - n(y))^2 of n = |phi| / rms |phi|, phi(x) = conv(x, W).

    W are fixed filters.

    What is dark in CT may be bright in MR, and by another amount. So only magnitudes are compared, each filter's over
    its root mean square in that image: where structures are, not which way or how strongly they stand out.
    """

    def normalised(x: jax.Array) -> jax.Array:
        strength = jnp.abs(responses(x))
        return strength * jax.lax.rsqrt(jnp.square(strength).mean((1, 2), keepdims=True) + TINY)

    return image.mse(normalised(x), normalised(y))
