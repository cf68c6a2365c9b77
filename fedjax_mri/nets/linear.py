"""Softmax regression: one dense layer from all pixels, or from features of a fixed network, to the logits."""

import math
from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import group_norm


@dataclass(frozen=True)
class LinearSettings:
    """Settings of softmax regression."""

    groups: int = 0  # of GroupNorm without parameters before the dense layer; as many as divide the channels; 0: none

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for any images or volumes. Raises UserError on groups that do not divide the channels."""
        if self.groups < 0 or (self.groups and image[-1] % self.groups):
            raise UserError(f"network.groups={self.groups}: must divide the {image[-1]} channels, or be 0 for no norm")
        return functional(lambda layers: Linear(math.prod(image), classes, self.groups, layers), compute)


class Linear(nnx.Module):
    """A dense layer. Its weights start uniform after Glorot and Bengio (2010), its biases at 0.

    The loss is convex, so where it starts decides only how long it takes.
    """

    def __init__(self, features: int, classes: int, groups: int, layers: Layers) -> None:
        self.groups = groups
        self.logits = layers.linear(features, classes, init=nnx.initializers.glorot_uniform())

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, ...] to logits [B, classes]."""
        if self.groups:
            x = group_norm(x.reshape(x.shape[0], -1, *x.shape[-2:]), self.groups)  # a volume's slices as rows of one
        return self.logits(x.reshape(x.shape[0], -1))
