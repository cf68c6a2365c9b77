"""Class activation maps: the features of a layer weighted by the gradient of the score."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.xai.layers import cut
from fedjax_mri.xai.method import Method, Scores, gradient

Weigh = Callable[[jax.Array, jax.Array], jax.Array]  # features and gradient [B, h, w, C] -> map [B, h, w]
TINY = 1e-12


@dataclass(frozen=True)
class GradCAM:
    """Channels weighted by their mean gradient (Selvaraju et al. 2017)."""

    layer: int = -1  # counted from the end among the last activations of each size

    def build(self) -> Method:
        """Returns the method, which raises UserError where the network has no such layer."""
        return cam(self.layer, by_mean_gradient)


@dataclass(frozen=True)
class GradCAMPlusPlus:
    """Channels weighted by positive gradients, those of a small region as much as those of a large one (Chattopadhay
    et al. 2018)."""

    layer: int = -1

    def build(self) -> Method:
        """Returns the method, which raises UserError where the network has no such layer."""
        return cam(self.layer, by_positive_regions)


@dataclass(frozen=True)
class LayerCAM:
    """Each value weighted by its own positive gradient (Jiang et al. 2021), which suits early layers too."""

    layer: int = -1

    def build(self) -> Method:
        """Returns the method, which raises UserError where the network has no such layer."""
        return cam(self.layer, by_own_gradient)


def cam(layer: int, weigh: Weigh) -> Method:
    """Returns the method that weights a layer's features, drops negative values and resizes the map to the image.

    The map is not scaled.
    """

    def method(scores: Scores, x: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
        features, tail = cut(scores, x, layer)
        coarse = jax.nn.relu(weigh(features, gradient(tail, features, target)))
        return jax.image.resize(coarse, x.shape[:3], "bilinear").astype(jnp.float32)

    return method


def by_mean_gradient(features: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns the map of Grad-CAM, in which features are weighted by their mean gradient.

    Before a global mean and a linear head this is CAM (Zhou et al. 2016) / (h w), whose sum is logit - bias.
    """
    return (slope.mean((1, 2), keepdims=True) * features).sum(-1)


def by_positive_regions(features: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns the map of Grad-CAM++ of exp(score), without its factor.

    The higher derivatives of exp(score) are powers of the first (equation 19).
    """
    square = jnp.square(slope)
    below = 2 * square + features.sum((1, 2), keepdims=True) * square * slope
    share = jnp.where(jnp.abs(below) > TINY, square / jnp.where(jnp.abs(below) > TINY, below, jnp.ones_like(below)), 0)
    return ((share * jax.nn.relu(slope)).sum((1, 2), keepdims=True) * features).sum(-1)


def by_own_gradient(features: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns the map of Layer-CAM: each value times its own positive gradient."""
    return (jax.nn.relu(slope) * features).sum(-1)
