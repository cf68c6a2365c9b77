"""VGG16 (Simonyan and Zisserman 2015): thirteen 3 x 3 convolutions, five pools, three dense layers."""

from dataclasses import dataclass, field
from itertools import pairwise

import jax
from flax import nnx

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.pool import max_pool
from fedjax_mri.nets.dropout import dropout
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import Head, HeadSettings
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import NormKind, check_groups
from fedjax_mri.nets.resample import adaptive_mean_pool
from fedjax_mri.nets.resnet import FAN_OUT

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # times the width, convolutions; each halves the image


@dataclass(frozen=True)
class VGGSettings:
    """VGG16 for images of any size of 32 px or more; the published one is for 224."""

    width: int = 64  # channels of the first stage; then 2, 4, 8 and 8 times as many
    hidden: int = 4096  # units of each of the two dense layers before the logits
    grid: int = 7  # the dense layers see means over so many rows and columns
    norm: NormKind = "none"
    head: HeadSettings = field(default_factory=HeadSettings)  # its dropout is both dense layers'; .5 as published

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [H, W, C].

        Raises UserError on settings or images that it cannot be built for.
        """
        image = planar(image, "network VGGSettings")
        width, hidden, grid = self.width, self.hidden, self.grid
        if min(width, hidden, grid) < 1:
            raise UserError(
                f"network.width={width}, network.hidden={hidden}, network.grid={grid}: give 1 or more of each"
            )
        if min(image[:2]) < 32:
            raise UserError(
                f"images of {image[0]} x {image[1]} px: VGG16 wants 32 px or more, set task.preprocess.size"
            )
        check_groups("network.width", (width,), self.norm)
        return functional(lambda layers: VGG(image[2], classes, self, layers), compute, self.norm, FAN_OUT)


class VGG(nnx.Module):
    """Stages of convolution, norm if asked for, ReLU; then dense layers from a grid of means."""

    def __init__(self, channels: int, classes: int, settings: VGGSettings, layers: Layers) -> None:
        widths = [settings.width * times for times, count in STAGES for _ in range(count)]
        self.convs = nnx.List(layers.conv(*pair, padding=1) for pair in pairwise([channels, *widths]))
        self.norms = nnx.List(layers.norm(width) for width in widths)
        inputs = settings.grid**2 * widths[-1], settings.hidden
        self.hidden = nnx.List(layers.linear(size, settings.hidden) for size in inputs)
        self.logits = Head(settings.hidden, classes, settings.head, layers)
        self.grid = settings.grid

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, channels] to logits [B, classes]."""
        conv_norms = zip(self.convs, self.norms)
        for _, count in STAGES:
            for conv, norm in (next(conv_norms) for _ in range(count)):
                x = nnx.relu(norm(conv(x), present, train))
            x = max_pool(x)
        x = adaptive_mean_pool(x, self.grid).reshape(x.shape[0], -1)
        first, second = (None, None) if key is None else jax.random.split(key)
        x = dropout(nnx.relu(self.hidden[0](x)), self.logits.dropout, first)
        return self.logits(nnx.relu(self.hidden[1](x)), present, train, second)
