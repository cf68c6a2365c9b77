"""The convolutional classifier of federated imaging studies: stages of convolution, norm, ReLU, and a pool; then dense.

Wider studies take two convolutions a stage, what the first gives added to what the second does (He et al. 2016), and
the mean over positions.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import jax
from flax import nnx

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.pool import max_pool
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import Head, HeadSettings
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import NormKind, check_groups


@dataclass(frozen=True)
class CNNSettings:
    """The small network, for square images."""

    widths: tuple[int, ...] = (16, 32, 64, 96)  # channels of each stage; each halves the image
    hidden: int = 0  # units of a dense layer before the logits; 0: none
    norm: NormKind = "group"
    convs: int = 1  # 3 x 3 convolutions of each stage
    residual: bool = False  # all but a stage's first add to what they are given
    pool: Literal["flatten", "mean"] = "flatten"  # what is left of the image, by position or its mean
    head: HeadSettings = field(default_factory=HeadSettings)

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [H, W, C].

        Raises UserError on settings or images that it cannot be built for.
        """
        image = planar(image, "network CNNSettings")
        _check(self, image)
        return functional(lambda layers: CNN(image[1], image[2], classes, self, layers), compute, self.norm)


def _check(settings: CNNSettings, image: tuple[int, ...]) -> None:
    widths, stages = settings.widths, len(settings.widths)
    if not widths or min(widths) < 1 or settings.hidden < 0 or settings.convs < 1:
        raise UserError(
            f"network.widths={widths}, network.hidden={settings.hidden}, network.convs={settings.convs}: give stages "
            "of 1 channel or more, a hidden layer of 0 units or more, and 1 convolution or more a stage"
        )
    if image[0] != image[1]:
        raise UserError(f"images of {image[0]} x {image[1]} px are not square: set task.preprocess.size")
    if image[0] < 2**stages:
        raise UserError(f"network.widths={widths}: {stages} stages want {2**stages} px or more, images have {image[0]}")
    check_groups("network.widths", widths, settings.norm)


class CNN(nnx.Module):
    """Stages that halve the image, a dense layer if asked for, logits.

    Without the dense layer every feature has passed a norm, and no unit can die in the first rounds, when clients of
    skewed labels pull far apart. Logits from a flattened image depend on positions, so the size is fixed: `size` px
    square, of at least 2 ** len(widths).
    """

    def __init__(self, size: int, channels: int, classes: int, settings: CNNSettings, layers: Layers) -> None:
        widths, bias = settings.widths, settings.norm == "none"
        outputs = [width for width in widths for _ in range(settings.convs)]
        self.convs = nnx.List(layers.conv(*pair, bias=bias) for pair in pairwise([channels, *outputs]))
        self.norms = nnx.List(layers.norm(width) for width in outputs)
        features = widths[-1] * (1 if settings.pool == "mean" else (size >> len(widths)) ** 2)
        self.hidden = layers.linear(features, settings.hidden) if settings.hidden else None
        self.logits = Head(settings.hidden or features, classes, settings.head, layers)
        self.convs_per_stage, self.residual, self.pool = settings.convs, settings.residual, settings.pool

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, size, size, channels] to logits [B, classes]."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            place_in_stage = number % self.convs_per_stage
            y = norm(conv(x), present, train)
            x = nnx.relu(x + y if self.residual and place_in_stage else y)
            x = max_pool(x) if place_in_stage == self.convs_per_stage - 1 else x
        x = x.mean((1, 2)) if self.pool == "mean" else x.reshape(x.shape[0], -1)
        return self.logits(x if self.hidden is None else nnx.relu(self.hidden(x)), present, train, key)
