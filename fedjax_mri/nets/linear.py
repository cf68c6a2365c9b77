"""Softmax regression: one dense layer from all pixels to the logits."""

import math
from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers


@dataclass(frozen=True)
class LinearSettings:
    """Softmax regression, which has no settings."""

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """The network for images or volumes of any shape."""
        return functional(lambda layers: Linear(math.prod(image), classes, layers), compute)


class Linear(nnx.Module):
    """A dense layer. Its weights start uniform after Glorot and Bengio (2010), its biases at 0.

    The loss is convex, so where it starts decides only how long it takes.
    """

    def __init__(self, features: int, classes: int, layers: Layers) -> None:
        self.logits = layers.linear(features, classes, init=nnx.initializers.glorot_uniform())

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, ...] -> logits [B, classes]."""
        return self.logits(x.reshape(x.shape[0], -1))
