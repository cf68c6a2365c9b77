"""The small convolutional network that studies of private training compare by: two strided convolutions, two dense
layers, tanh between them (Papernot et al. 2021, arXiv 2007.14191; Tramer and Boneh 2021, arXiv 2011.11660).

It has no norm, and some 26,000 parameters on images of 28 px: few directions for noise to be in.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers

LEAST = 16  # px of a side


@dataclass(frozen=True)
class TanhCNNSettings:
    """Widths of the two convolutions and of the dense layer."""

    widths: tuple[int, int] = (16, 32)
    hidden: int = 32

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [H, W, C]. Raises UserError on images below 16 px or widths below 1."""
        image = planar(image, "network TanhCNNSettings")
        if min(image[:2]) < LEAST:
            raise UserError(f"images of {image[0]} x {image[1]} px: network tanhcnn wants {LEAST} px or more")
        if min(*self.widths, self.hidden) < 1:
            raise UserError(f"network.widths={self.widths}, network.hidden={self.hidden}: give 1 or more")
        return functional(lambda layers: TanhCNN(image, classes, self, layers), compute, "none")


class TanhCNN(nnx.Module):
    """Two convolutions, each with tanh and an overlapping pool; a dense layer; logits."""

    def __init__(self, image: tuple[int, ...], classes: int, settings: TanhCNNSettings, layers: Layers) -> None:
        first, second = settings.widths
        self.first = layers.conv(image[2], first, 8, 2, padding=2)
        self.second = layers.conv(first, second, 4, 2, padding=0)
        sides = [((side - 4) // 2 - 4) // 2 for side in image[:2]]
        self.hidden = layers.linear(second * sides[0] * sides[1], settings.hidden)
        self.logits = layers.linear(settings.hidden, classes)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, C] to logits [B, classes]."""
        for conv in (self.first, self.second):
            x = pool_of_neighbours(jnp.tanh(conv(x)))
        return self.logits(jnp.tanh(self.hidden(x.reshape(x.shape[0], -1))))


def pool_of_neighbours(x: jax.Array) -> jax.Array:
    """Returns the maximum of each 2 x 2 neighbours, x [B, H, W, C] -> [B, H - 1, W - 1, C]."""
    rows = jnp.maximum(x[:, :-1], x[:, 1:])
    return jnp.maximum(rows[:, :, :-1], rows[:, :, 1:])
