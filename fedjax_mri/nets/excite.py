"""Squeeze and excitation (Hu et al. 2018): channels scaled by what the whole image holds."""

from collections.abc import Callable

import jax
from flax import nnx

from fedjax_mri.nets.layers import HE, Layers


class SqueezeExcite(nnx.Module):
    """Multiplies channels by a sigmoid of two dense layers on the channels' means."""

    def __init__(
        self,
        features: int,
        hidden: int,
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        *,
        bias: bool = True,
        layers: Layers,
    ) -> None:
        self.reduce = layers.linear(features, hidden, bias=bias, init=HE)
        self.expand = layers.linear(hidden, features, bias=bias, init=HE)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiplies the channels of x [B, H, W, features] by weights made of their means; the shape stays."""
        scale = nnx.sigmoid(self.expand(self.activation(self.reduce(x.mean((1, 2))))))
        return x * scale[:, None, None]
