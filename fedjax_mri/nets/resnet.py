"""Residual networks (He et al. 2016): 18, 34 and 50 layers from one definition."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import jax
from flax import nnx

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.pool import overlapping_max_pool
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import Head, HeadSettings
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import NormKind, check_groups

Depth = Literal[18, 34, 50]

FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class ResNetSettings:
    """A residual network for images of any size."""

    depth: Depth = 18
    width: int = 64  # channels of the stem; stages have 1, 2, 4 and 8 times as many, four times that in ResNet-50
    norm: NormKind = "group"
    head: HeadSettings = field(default_factory=HeadSettings)

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [H, W, C]. Raises UserError on settings that cannot be built."""
        image = planar(image, "network ResNetSettings")
        if self.depth not in (18, 34, 50) or self.width < 1:
            raise UserError(f"network.depth={self.depth}, network.width={self.width}: give 18, 34 or 50, and 1 or more")
        check_groups("network.width", (self.width,), self.norm)
        return functional(lambda layers: ResNet(image[2], classes, self, layers), compute, self.norm, FAN_OUT)


@dataclass(frozen=True)
class ResNetEncoder:
    """A residual network without its logits, for images of any size."""

    depth: Depth = 18
    width: int = 64  # channels of the stem
    stages: int = 4  # how many of the four; all but the first halve the image, a quarter after the stem
    norm: NormKind = "group"

    @property
    def features(self) -> int:
        """Channels of what comes out."""
        return (self.width << self.stages - 1) * (4 if self.depth == 50 else 1)

    def check(self, image: tuple[int, ...], field: str) -> None:
        """Raises UserError, naming the `field`, on settings that cannot be built, or not for images [H, W, 1]."""
        if len(image) != 3:
            raise UserError(f"{field}: ResNetEncoder wants images, not volumes of {image}; take VolumeEncoder")
        if self.depth not in (18, 34, 50) or self.width < 1 or not 1 <= self.stages <= 4:
            given = f"{field}.depth={self.depth}, {field}.width={self.width}, {field}.stages={self.stages}"
            raise UserError(f"{given}: give 18, 34 or 50; 1 or more; and 1 to 4")
        check_groups(f"{field}.width", (self.width,), self.norm)

    def module(self, channels: int, layers: Layers) -> "Encoder":
        """Returns the encoder of images of that number of channels."""
        return Encoder(channels, self, layers._replace(norm_kind=self.norm, init=FAN_OUT))


class ResNet(nnx.Module):
    """A 7 x 7 stem and a pool, each halving the image; four stages, all but the first halving it; mean; logits."""

    def __init__(self, channels: int, classes: int, settings: ResNetSettings, layers: Layers) -> None:
        blocks, bottleneck = stages(settings.depth)
        self.stem = layers.conv_norm(channels, settings.width, 7, 2)
        self.blocks = residual_blocks(settings.width, blocks, bottleneck, layers)
        self.logits = Head(settings.width * (32 if bottleneck else 8), classes, settings.head, layers)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, channels] to logits [B, classes]."""
        x = encode(self, x, present, train)
        return self.logits(x.mean((1, 2)), present, train, key)


class Encoder(nnx.Module):
    """The stem, the pool, and the stages asked for."""

    def __init__(self, channels: int, settings: ResNetEncoder, layers: Layers) -> None:
        blocks, bottleneck = stages(settings.depth)
        self.stem = layers.conv_norm(channels, settings.width, 7, 2)
        self.blocks = residual_blocks(settings.width, blocks[: settings.stages], bottleneck, layers)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool) -> jax.Array:
        """Maps x [B, H, W, channels] to [B, H', W', features]."""
        return encode(self, x, present, train)


def stages(depth: Depth) -> tuple[tuple[int, ...], bool]:
    """Returns how many blocks each stage has, and whether they are bottlenecks."""
    return (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3), depth == 50


def residual_blocks(width: int, blocks: tuple[int, ...], bottleneck: bool, layers: Layers) -> nnx.List:
    """Returns the residual blocks of all stages; `blocks` says how many each has.

    Every stage but the first doubles the width and halves the image.
    """
    widths = [width << stage for stage, count in enumerate(blocks) for _ in range(count)]
    outputs = [4 * width if bottleneck else width for width in widths]
    strides = [2 if after > before else 1 for before, after in pairwise([width, *widths])]
    shapes = zip([width, *outputs], widths, outputs, strides)
    return nnx.List(Block(*shape, bottleneck, layers) for shape in shapes)


def encode(net: ResNet | Encoder, x: jax.Array, present: jax.Array, train: bool) -> jax.Array:
    """Runs all of a network before its logits: x [B, H, W, channels] -> [B, H', W', features]."""
    x = overlapping_max_pool(nnx.relu(net.stem(x, present, train)))
    for block in net.blocks:
        x = block(x, present, train)
    return x


class Block(nnx.Module):
    """Two 3 x 3 convolutions, or a 3 x 3 between two 1 x 1 (bottleneck), added to the input.

    The input passes a 1 x 1 convolution where its shape differs. A bottleneck strides in its 3 x 3.
    """

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, bottleneck: bool, layers: Layers) -> None:
        plain = [(inputs, width, 3, stride), (width, width, 3, 1)]
        narrow = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        same_shape = stride == 1 and inputs == outputs
        self.layers = nnx.List(layers.conv_norm(*shape) for shape in (narrow if bottleneck else plain))
        self.shortcut = None if same_shape else layers.conv_norm(inputs, outputs, 1, stride)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool) -> jax.Array:
        """Maps x [B, H, W, inputs] to [B, H', W', outputs]."""
        y = self.layers[0](x, present, train)
        for layer in self.layers[1:]:
            y = layer(nnx.relu(y), present, train)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x, present, train)))
