"""The convolutional classifier of federated imaging studies: stages of convolution, norm, ReLU, and a pool; then dense.

Wider studies take two convolutions a stage, what the first gives added to what the second does (He et al. 2016), and
the mean over positions.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import Head, HeadSettings
from fedjax_mri.nets.layers import Conv, ConvPolicy, Norm, NormKind, check_groups, max_pool


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

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Net:
        """For images [H, W, C]. Raises UserError on settings that cannot be built, or not for such images."""
        _check(self, image)
        return functional(lambda rngs: CNN(image[1], image[2], classes, self, compute.conv, rngs), compute)


def _check(settings: CNNSettings, image: tuple[int, int, int]) -> None:
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
    """Stages that halve the image, then logits from what is left of it, with a hidden dense layer between if asked for.

    Without the hidden layer every feature has passed a norm, and no unit can die in the first rounds, when clients of
    skewed labels pull far apart. A dense layer on what is flattened sees positions, so the size is fixed: `size` px
    square, of at least 2 ** len(widths).
    """

    def __init__(
        self, size: int, channels: int, classes: int, settings: CNNSettings, policy: ConvPolicy, rngs: nnx.Rngs
    ) -> None:
        widths, norm, self.each = settings.widths, settings.norm, settings.convs
        outputs = [width for width in widths for _ in range(settings.convs)]
        pairs = zip((channels, *outputs[:-1]), outputs)
        self.convs = nnx.List(Conv(*pair, bias=norm == "none", policy=policy, rngs=rngs) for pair in pairs)
        self.norms = nnx.List(Norm(width, norm, rngs=rngs) for width in outputs)
        features = widths[-1] * (1 if settings.pool == "mean" else (size >> len(widths)) ** 2)
        self.hidden = nnx.Linear(features, settings.hidden, rngs=rngs) if settings.hidden else None
        self.logits = Head(settings.hidden or features, classes, settings.head, rngs)
        self.residual, self.pool = settings.residual, settings.pool

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, size, size, channels], weight [B], key (None: nothing dropped) -> logits [B, classes]."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            place = number % self.each
            y = norm(conv(x), weight, train)
            x = nnx.relu(x + y if self.residual and place else y)
            x = max_pool(x) if place == self.each - 1 else x
        x = x.mean((1, 2)) if self.pool == "mean" else x.reshape(x.shape[0], -1)
        return self.logits(x if self.hidden is None else nnx.relu(self.hidden(x)), weight, train, key)
