"""Residual networks (He et al. 2016): 18, 34 and 50 layers from one definition."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import PLAIN, Head, HeadSettings
from fedjax_mri.nets.layers import Conv, ConvPolicy, Norm, NormKind, around, check_groups, overlapping_max_pool

INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class ResNetSettings:
    """A residual network for images of any size."""

    depth: Literal[18, 34, 50] = 18
    width: int = 64  # channels of the stem; stages have 1, 2, 4 and 8 times as many, four times that in ResNet-50
    norm: NormKind = "group"
    head: HeadSettings = field(default_factory=HeadSettings)

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Net:
        """For images [H, W, C]. Raises UserError on settings that cannot be built."""
        if self.depth not in (18, 34, 50) or self.width < 1:
            raise UserError(f"network.depth={self.depth}, network.width={self.width}: give 18, 34 or 50, and 1 or more")
        check_groups("network.width", (self.width,), self.norm)
        blocks, bottleneck = layout(self)

        def build(rngs: nnx.Rngs) -> ResNet:
            shape = image[2], classes, blocks, bottleneck, self.width
            return ResNet(*shape, norm=self.norm, head=self.head, policy=compute.conv, rngs=rngs)

        return functional(build, compute)


def layout(settings: "ResNetSettings | ResNetEncoder") -> tuple[tuple[int, ...], bool]:
    """Blocks of each stage, and whether they are bottlenecks."""
    return (2, 2, 2, 2) if settings.depth == 18 else (3, 4, 6, 3), settings.depth == 50


class ResNet(nnx.Module):
    """A 7 x 7 stem and a pool, each halving the image; four stages, all but the first halving it; mean; logits."""

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: Sequence[int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        width: int = 64,
        *,
        norm: NormKind = "group",
        head: HeadSettings = PLAIN,
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        self.stem, self.blocks, features = trunk(channels, blocks, bottleneck, width, norm, policy, rngs)
        self.logits = Head(features, classes, head, rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, H, W, channels], weight [B], key (None: nothing dropped) -> logits [B, classes]."""
        features = through(self.stem, self.blocks, x, weight, train).mean((1, 2))
        return self.logits(features, weight, train, key)


def trunk(
    channels: int,
    blocks: Sequence[int],
    bottleneck: bool,
    width: int,
    norm: NormKind,
    policy: ConvPolicy,
    rngs: nnx.Rngs,
) -> "tuple[ConvNorm, nnx.List, int]":
    """All but the logits: the stem, the blocks of each stage, and how many features they give."""
    stem = ConvNorm(channels, width, 7, 2, norm, policy, rngs)
    widths = [width << stage for stage, count in enumerate(blocks) for _ in range(count)]
    outputs = [4 * width if bottleneck else width for width in widths]
    inputs = [width, *outputs[:-1]]
    strides = [2 if here > before else 1 for before, here in zip([width, *widths], widths)]
    shapes = zip(inputs, widths, outputs, strides)
    return stem, nnx.List(Block(*shape, bottleneck, norm, policy, rngs) for shape in shapes), outputs[-1]


def through(stem: "ConvNorm", blocks: nnx.List, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
    """What a trunk makes of x [B, H, W, channels], weight [B] -> [B, H', W', features]."""
    x = overlapping_max_pool(nnx.relu(stem(x, weight, train)))
    for block in blocks:
        x = block(x, weight, train)
    return x


class Block(nnx.Module):
    """Two 3 x 3 convolutions, or a 3 x 3 between two 1 x 1 (bottleneck), added to what came in.

    What came in passes a 1 x 1 convolution where its shape differs. A bottleneck strides in its 3 x 3.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        stride: int,
        bottleneck: bool,
        norm: NormKind,
        policy: ConvPolicy,
        rngs: nnx.Rngs,
    ) -> None:
        plain = [(inputs, width, 3, stride), (width, width, 3, 1)]
        narrow = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        layers = narrow if bottleneck else plain
        same = stride == 1 and inputs == outputs
        self.layers = nnx.List(ConvNorm(*layer, norm, policy, rngs) for layer in layers)
        self.shortcut = None if same else ConvNorm(inputs, outputs, 1, stride, norm, policy, rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, inputs], weight [B] -> [B, H', W', outputs]."""
        y = x
        for number, layer in enumerate(self.layers):
            y = layer(nnx.relu(y) if number else y, weight, train)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x, weight, train)))


class ConvNorm(nnx.Module):
    """A convolution padded around by half its window, and its norm."""

    def __init__(
        self, inputs: int, outputs: int, side: int, stride: int, norm: NormKind, policy: ConvPolicy, rngs: nnx.Rngs
    ) -> None:
        window, padding, bias = (side, side), around(side // 2), norm == "none"
        self.conv = Conv(
            inputs, outputs, window, stride=stride, padding=padding, bias=bias, init=INIT, policy=policy, rngs=rngs
        )
        self.norm = Norm(outputs, norm, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, inputs], weight [B] -> [B, H', W', outputs]."""
        return self.norm(self.conv(x), weight, train)


@dataclass(frozen=True)
class ResNetEncoder:
    """A residual network without its logits, for images of any size."""

    depth: Literal[18, 34, 50] = 18
    width: int = 64  # channels of the stem
    stages: int = 4  # how many of the four; all but the first halve the image, a quarter after the stem
    norm: NormKind = "group"

    @property
    def features(self) -> int:
        """Channels of what comes out."""
        return (self.width << self.stages - 1) * (4 if self.depth == 50 else 1)

    def check(self, image: tuple[int, ...], field: str) -> None:
        """Raises UserError on settings that cannot be built, or not for images [H, W, 1]."""
        if len(image) != 3:
            raise UserError(f"{field}: ResNetEncoder wants images, not volumes of {image}; take VolumeEncoder")
        if self.depth not in (18, 34, 50) or self.width < 1 or not 1 <= self.stages <= 4:
            given = f"{field}.depth={self.depth}, {field}.width={self.width}, {field}.stages={self.stages}"
            raise UserError(f"{given}: give 18, 34 or 50; 1 or more; and 1 to 4")
        check_groups(f"{field}.width", (self.width,), self.norm)

    def module(self, channels: int, policy: ConvPolicy, rngs: nnx.Rngs) -> "Trunk":
        """Of images of so many channels."""
        return Trunk(channels, self, policy, rngs)


class Trunk(nnx.Module):
    """Stem and stages."""

    def __init__(self, channels: int, settings: ResNetEncoder, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        blocks, bottleneck = layout(settings)
        shape = channels, blocks[: settings.stages], bottleneck, settings.width
        self.stem, self.blocks, _ = trunk(*shape, settings.norm, policy, rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, channels], weight [B] -> [B, H', W', features]."""
        return through(self.stem, self.blocks, x, weight, train)
