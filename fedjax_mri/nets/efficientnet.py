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

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.depthwise import Depthwise
from fedjax_mri.nets.dropout import check_rates, drop_path
from fedjax_mri.nets.excite import SqueezeExcite
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import Head, HeadSettings
from fedjax_mri.nets.layers import ConvPolicy, Norm, NormKind, around
from fedjax_mri.nets.resnet import ConvNorm


class Stage(NamedTuple):
    """Blocks of one size, before scaling."""

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

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Net:
        """For images [H, W, C]. Raises UserError on settings that cannot be built."""
        if not (0 < self.width < math.inf and 0 < self.depth < math.inf):
            raise UserError(f"network.width={self.width}, network.depth={self.depth}: give more than 0 of each")
        check_rates({"network.stochastic_depth": self.stochastic_depth})
        return functional(lambda rngs: EfficientNet(image[2], classes, self, compute.conv, rngs), compute)


def scaled(settings: EfficientNetSettings) -> list[Stage]:
    """The stages as wide and deep as the settings say."""
    return [
        stage._replace(width=_rounded(stage.width * settings.width), blocks=math.ceil(stage.blocks * settings.depth))
        for stage in STAGES
    ]


def _rounded(width: float) -> int:
    """The nearest multiple of 8, 8 or more; the next one where that loses over a tenth."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


class EfficientNet(nnx.Module):
    """A 3 x 3 stem that halves; inverted residual blocks, four halvings among them; 1 x 1; mean; logits."""

    def __init__(
        self, channels: int, classes: int, settings: EfficientNetSettings, policy: ConvPolicy, rngs: nnx.Rngs
    ) -> None:
        stages, norm, stem = scaled(settings), settings.norm, _rounded(STEM * settings.width)
        each = [stage._replace(stride=1 if n else stage.stride) for stage in stages for n in range(stage.blocks)]
        inputs = [stem, *(stage.width for stage in each)]
        features = TOP * inputs[-1]
        self.stem = ConvNorm(channels, stem, 3, 2, norm, policy, rngs)
        self.blocks = nnx.List(InvertedBlock(*pair, norm, policy, rngs) for pair in zip(inputs, each))
        self.top = ConvNorm(inputs[-1], features, 1, 1, norm, policy, rngs)
        self.logits = Head(features, classes, settings.head, rngs)
        self.drops = settings.stochastic_depth

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, H, W, channels], weight [B], key (None: nothing dropped) -> logits [B, classes]."""
        count = len(self.blocks)
        *keys, last = [None] * (count + 1) if key is None else jax.random.split(key, count + 1)
        x = nnx.silu(self.stem(x, weight, train))
        for number, block in enumerate(self.blocks):
            x = block(x, weight, train, self.drops * number / count, keys[number])
        return self.logits(nnx.silu(self.top(x, weight, train)).mean((1, 2)), weight, train, last)


class InvertedBlock(nnx.Module):
    """1 x 1 to many channels, depthwise, squeeze and excitation, 1 x 1 to few; added to what came in where it fits."""

    def __init__(self, inputs: int, stage: Stage, norm: NormKind, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        wide, side, stride = inputs * stage.expand, stage.side, stage.stride
        window, pads, init = (side, side), around(side // 2), nnx.initializers.normal(math.sqrt(2) / side)
        self.expand = ConvNorm(inputs, wide, 1, 1, norm, policy, rngs) if stage.expand > 1 else None
        self.depthwise = Depthwise(wide, window, stride=stride, padding=pads, init=init, policy=policy, rngs=rngs)
        self.norm = Norm(wide, norm, rngs=rngs)
        self.excite = SqueezeExcite(wide, max(1, inputs // 4), nnx.silu, rngs=rngs)
        self.project = ConvNorm(wide, stage.width, 1, 1, norm, policy, rngs)
        self.adds = stride == 1 and inputs == stage.width

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool, drops: float, key: jax.Array | None) -> jax.Array:
        """x [B, H, W, inputs], weight [B] -> [B, H', W', width]; an example's own part drops out by chance `drops`."""
        y = x if self.expand is None else nnx.silu(self.expand(x, weight, train))
        y = self.excite(nnx.silu(self.norm(self.depthwise(y), weight, train)))
        y = self.project(y, weight, train)
        return x + drop_path(y, drops, key) if self.adds else y
