"""Squeeze and excitation (Hu et al. 2018): channels weighed by what the whole image holds."""

from collections.abc import Callable

import jax
from flax import nnx

from fedjax_mri.nets.layers import HE


class SqueezeExcite(nnx.Module):
    """Channels' means through two dense layers and a sigmoid, times the channels."""

    def __init__(
        self,
        features: int,
        hidden: int,
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        *,
        bias: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.reduce = nnx.Linear(features, hidden, use_bias=bias, kernel_init=HE, rngs=rngs)
        self.expand = nnx.Linear(hidden, features, use_bias=bias, kernel_init=HE, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, features] -> [B, H, W, features]."""
        share = nnx.sigmoid(self.expand(self.activation(self.reduce(x.mean((1, 2))))))
        return x * share[:, None, None]
