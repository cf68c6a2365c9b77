"""The small convolutional classifier of federated imaging studies: convolution, norm, ReLU, pool, then dense layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Conv, ConvPolicy, Norm, NormKind, check_groups, max_pool


@dataclass(frozen=True)
class CNNSettings:
    """The small network, for square images."""

    widths: tuple[int, ...] = (16, 32, 64, 96)  # channels of each stage; each halves the image
    hidden: int = 0  # units of a dense layer before the logits; 0: none
    norm: NormKind = "group"

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Net:
        """For images [H, W, C]. Raises UserError on settings that cannot be built, or not for such images."""
        _check(self, image)
        size, channels = image[1:]
        widths, hidden, norm = self.widths, self.hidden, self.norm

        def build(rngs: nnx.Rngs) -> CNN:
            policy = compute.conv
            return CNN(size, channels, classes, widths=widths, hidden=hidden, norm=norm, policy=policy, rngs=rngs)

        return functional(build, compute)


def _check(settings: CNNSettings, image: tuple[int, int, int]) -> None:
    widths, stages = settings.widths, len(settings.widths)
    if not widths or min(widths) < 1 or settings.hidden < 0:
        raise UserError(
            f"network.widths={widths}, network.hidden={settings.hidden}: give stages of 1 channel or more, "
            "and a hidden layer of 0 units or more"
        )
    if image[0] != image[1]:
        raise UserError(f"images of {image[0]} x {image[1]} px are not square: set task.preprocess.size")
    if image[0] < 2**stages:
        raise UserError(f"network.widths={widths}: {stages} stages want {2**stages} px or more, images have {image[0]}")
    check_groups("network.widths", widths, settings.norm)


class CNN(nnx.Module):
    """Stages that halve the image, then logits from what is left of it, with a hidden dense layer between if asked for.

    Without the hidden layer every feature has passed a norm, and no unit can die in the first rounds, when clients of
    skewed labels pull far apart. The dense layer sees positions, so the size is fixed: `size` px square, of at least
    2 ** len(widths).
    """

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 96),
        hidden: int = 0,
        norm: NormKind = "group",
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        inputs = (channels, *widths[:-1])
        self.convs = nnx.List(Conv(i, o, bias=norm == "none", policy=policy, rngs=rngs) for i, o in zip(inputs, widths))
        self.norms = nnx.List(Norm(width, norm, rngs=rngs) for width in widths)
        features = (size >> len(widths)) ** 2 * widths[-1]
        self.hidden = nnx.Linear(features, hidden, rngs=rngs) if hidden else None
        self.logits = nnx.Linear(hidden or features, classes, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, size, size, channels], weight [B] -> logits [B, classes]."""
        for conv, norm in zip(self.convs, self.norms):
            x = max_pool(nnx.relu(norm(conv(x), weight, train)))
        x = x.reshape(x.shape[0], -1)
        return self.logits(x if self.hidden is None else nnx.relu(self.hidden(x)))
