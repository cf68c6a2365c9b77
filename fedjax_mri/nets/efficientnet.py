"""EfficientNet (Tan and Le 2019): one small network, made wider and deeper together.

Blocks, rounding, padding and BatchNorm's 1e-5 are those of torchvision and timm, so that their weights fit
(`weights.py`); the first release in TensorFlow pads strides on one side and norms with 1e-3. Published sizes in px:
240 for B1, 300 for B3.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
from flax import nnx

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.dropout import check_rates, drop_path
from fedjax_mri.nets.excite import SqueezeExcite
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import Head, HeadSettings
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import NormKind
from fedjax_mri.nets.resnet import FAN_OUT


class Stage(NamedTuple):
    """Blocks of one size of image."""

    expand: int  # times as many channels within a block
    side: int  # of the depthwise window, px
    stride: int  # of the first block
    width: int  # channels
    blocks: int


STEM, TOP = 32, 4  # channels of the first layer; the last has so many times those of the last stage
STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)


@dataclass(frozen=True)
class EfficientNetSettings:
    """An EfficientNet for images of any size: B1 by default; B3 is width 1.2, depth 1.4."""

    width: float = 1.0  # times the channels of B0
    depth: float = 1.1  # times its blocks
    norm: NormKind = "group"
    head: HeadSettings = field(default_factory=HeadSettings)  # dropout .2 in B1 and .3 in B3 as published
    stochastic_depth: float = 0.0  # of the last block, rising evenly to it from 0; .2 as published

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [H, W, C]. Raises UserError on settings that cannot be built."""
        image = planar(image, "network EfficientNetSettings")
        if not (0 < self.width < math.inf and 0 < self.depth < math.inf):
            raise UserError(f"network.width={self.width}, network.depth={self.depth}: give more than 0 of each")
        check_rates({"network.stochastic_depth": self.stochastic_depth})
        return functional(lambda layers: EfficientNet(image[2], classes, self, layers), compute, self.norm, FAN_OUT)


def scaled_stages(settings: EfficientNetSettings) -> list[Stage]:
    """Returns the stages of B0 scaled to the width and depth of the settings."""
    return [
        stage._replace(width=_rounded(stage.width * settings.width), blocks=math.ceil(stage.blocks * settings.depth))
        for stage in STAGES
    ]


def _rounded(width: float) -> int:
    """Returns the multiple of 8 nearest to `width`, at least 8; the next one where rounding down loses over a tenth."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


class EfficientNet(nnx.Module):
    """A 3 x 3 stem that halves; inverted residual blocks, four halvings among them; 1 x 1; mean; logits."""

    def __init__(self, channels: int, classes: int, settings: EfficientNetSettings, layers: Layers) -> None:
        stages, stem = scaled_stages(settings), _rounded(STEM * settings.width)
        blocks = [stage._replace(stride=1 if n else stage.stride) for stage in stages for n in range(stage.blocks)]
        inputs = [stem, *(stage.width for stage in blocks)]
        features = TOP * inputs[-1]
        self.stem = layers.conv_norm(channels, stem, 3, 2)
        self.blocks = nnx.List(InvertedBlock(*pair, layers) for pair in zip(inputs, blocks))
        self.top = layers.conv_norm(inputs[-1], features, 1)
        self.logits = Head(features, classes, settings.head, layers)
        self.stochastic_depth = settings.stochastic_depth

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, channels] to logits [B, classes]."""
        count = len(self.blocks)
        *keys, last = [None] * (count + 1) if key is None else jax.random.split(key, count + 1)
        x = nnx.silu(self.stem(x, present, train))
        for number, block in enumerate(self.blocks):
            x = block(x, present, train, self.stochastic_depth * number / count, keys[number])
        return self.logits(nnx.silu(self.top(x, present, train)).mean((1, 2)), present, train, last)


class InvertedBlock(nnx.Module):
    """1 x 1 to many channels, depthwise, squeeze and excitation, 1 x 1 to few; added to the input where it fits."""

    def __init__(self, inputs: int, stage: Stage, layers: Layers) -> None:
        wide, side, stride = inputs * stage.expand, stage.side, stage.stride
        by_window = layers._replace(init=nnx.initializers.normal(math.sqrt(2) / side))
        self.expand = layers.conv_norm(inputs, wide, 1) if stage.expand > 1 else None
        self.depthwise = by_window.depthwise(wide, side, stride, padding=side // 2)
        self.norm = layers.norm(wide)
        self.excite = SqueezeExcite(wide, max(1, inputs // 4), nnx.silu, layers=layers)
        self.project = layers.conv_norm(wide, stage.width, 1)
        self.adds = stride == 1 and inputs == stage.width

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, rate: float, key: jax.Array | None) -> jax.Array:
        """Maps x [B, H, W, inputs] to [B, H', W', width].

        What is added to an example drops out with probability `rate`.
        """
        y = x if self.expand is None else nnx.silu(self.expand(x, present, train))
        y = self.excite(nnx.silu(self.norm(self.depthwise(y), present, train)))
        y = self.project(y, present, train)
        return x + drop_path(y, rate, key) if self.adds else y
