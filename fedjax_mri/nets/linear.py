"""Softmax regression: one dense layer from all pixels to the logits."""

from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net, functional


@dataclass(frozen=True)
class LinearSettings:
    """Nothing to choose."""

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Net:
        """For images [H, W, C] of any shape."""
        height, width, channels = image
        return functional(lambda rngs: Linear(height * width * channels, classes, rngs=rngs), compute)


class Linear(nnx.Module):
    """Weights uniform after Glorot and Bengio (2010), biases 0. The loss is convex: a start decides only time."""

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        self.logits = nnx.Linear(features, classes, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, H, W, C], weight [B] -> logits [B, classes]."""
        return self.logits(x.reshape(x.shape[0], -1))
