"""Networks that turn one modality into another, and those that tell real from made (Zhu et al. 2017, CycleGAN).

Every translator here and in `unet.py`, `double_unet.py` is applied to (params, carry, x, weight, train, key), every
discriminator to (params, carry, x, weight, train), and each ignores what it has no use for. Only x must be given:
without the others all examples count, norms use running statistics, and nothing is dropped.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import (
    Conv,
    ConvPolicy,
    ConvTranspose,
    ImageNorm,
    Norm,
    around,
    instance_norm,
    reflect_pad,
)

INIT = nnx.initializers.normal(0.02)


@dataclass(frozen=True)
class GeneratorSettings:
    """A residual generator, for images whose sides are multiples of 4."""

    width: int = 64  # channels at full size; twice as many at half, four times at a quarter of it
    blocks: int = 9  # residual blocks at a quarter of the size; 6 are usual at 128 px, 9 at 256 px

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """For images [H, W, C] to images [H, W, C]. Raises UserError on settings that cannot be built."""
        if self.width < 1 or self.blocks < 1:
            raise UserError(f"generator.width={self.width}, generator.blocks={self.blocks}: give 1 or more of each")
        if any(side < 8 or side % 4 for side in image[:2]):
            raise UserError(f"images of {image[0]} x {image[1]} px: the generator wants multiples of 4, 8 or more")
        width, blocks = self.width, self.blocks
        return functional(lambda rngs: Generator(image[2], width, blocks, policy=compute.conv, rngs=rngs), compute)


class Generator(nnx.Module):
    """Down to a quarter of the size, residual blocks, up again, tanh; instance norm, mirrored borders."""

    def __init__(self, channels: int, width: int, blocks: int, *, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        def conv(inputs: int, outputs: int, side: int, stride: int = 1) -> Conv:
            pads = around(1 if stride == 2 else 0)
            window = (side, side)
            return Conv(inputs, outputs, window, stride=stride, padding=pads, init=INIT, policy=policy, rngs=rngs)

        def up(inputs: int) -> ConvTranspose:
            return ConvTranspose(inputs, inputs // 2, init=INIT, policy=policy, rngs=rngs)

        deep = 4 * width
        self.first = conv(channels, width, 7)
        self.down = nnx.List([conv(width, 2 * width, 3, 2), conv(2 * width, deep, 3, 2)])
        self.blocks = residuals(deep, blocks, INIT, policy, rngs)
        self.up = nnx.List([up(deep), up(2 * width)])
        self.last = conv(width, channels, 7)

    def __call__(
        self, x: jax.Array, weight: jax.Array | None = None, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x [B, H, W, channels] in -1..1 -> [B, H, W, channels] in -1..1."""
        del weight, train, key
        x = _normed(self.first(reflect_pad(x, 3)))
        for conv in self.down:
            x = _normed(conv(x))
        x = through(self.blocks, x)
        for double in self.up:
            x = _normed(double(x))
        return jnp.tanh(self.last(reflect_pad(x, 3)))


class ResidualBlock(nnx.Module):
    """Two convolutions added to what came in."""

    def __init__(self, width: int, init: nnx.Initializer, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        self.first, self.second = (
            Conv(width, width, padding=around(0), init=init, policy=policy, rngs=rngs) for _ in range(2)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, width] -> [B, H, W, width]."""
        y = _normed(self.first(reflect_pad(x, 1)))
        return x + instance_norm(self.second(reflect_pad(y, 1)))


def residuals(width: int, count: int, init: nnx.Initializer, policy: ConvPolicy, rngs: nnx.Rngs) -> ResidualBlock:
    """`count` blocks in one, their parameters [count, ...], for `through`."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap
    def stacked(rngs: nnx.Rngs) -> ResidualBlock:
        return ResidualBlock(width, init, policy, rngs)

    return stacked(rngs)


def through(blocks: ResidualBlock, x: jax.Array) -> jax.Array:
    """x [B, H, W, width] through blocks one after another: a loop, for what is compiled once compiles faster."""
    return nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, blocks)


def _normed(x: jax.Array) -> jax.Array:
    return nnx.relu(instance_norm(x))


@dataclass(frozen=True)
class PatchGANSettings:
    """A discriminator of patches: 70 x 70 px by default (Isola et al. 2017).

    For a conditional one, as pix2pix's with norm "batch", build it for pairs: images of twice the channels.
    """

    width: int = 64  # channels after the first layer
    halvings: int = 3  # layers of stride 2; the patch has a side of 16, 34, 70 or 142 px for 1, 2, 3 or 4
    norm: ImageNorm = "instance"

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """For images [H, W, C]. Raises UserError on settings that cannot be built, or not for such images."""
        width, halvings, norm = self.width, self.halvings, self.norm
        if width < 1 or halvings < 1:
            raise UserError(f"discriminator.width={width}, discriminator.halvings={halvings}: give 1 or more of each")
        least = 3 << halvings
        if min(image[:2]) < least:
            raise UserError(
                f"discriminator.halvings={halvings}: wants {least} px or more, images have {image[0]} x {image[1]}"
            )
        return functional(
            lambda rngs: PatchGAN(image[2], width, halvings, norm, policy=compute.conv, rngs=rngs), compute
        )


class PatchGAN(nnx.Module):
    """A score for each patch: layers of stride 2, two of stride 1; leaky ReLU, norm but at both ends."""

    def __init__(
        self,
        channels: int,
        width: int,
        halvings: int,
        norm: ImageNorm = "instance",
        *,
        policy: ConvPolicy,
        rngs: nnx.Rngs,
    ) -> None:
        def conv(inputs: int, outputs: int, stride: int, bias: bool) -> Conv:
            window, pads = (4, 4), around(1)
            return Conv(
                inputs, outputs, window, stride=stride, padding=pads, bias=bias, init=INIT, policy=policy, rngs=rngs
            )

        widths = [channels, *(width * min(2**layer, 8) for layer in range(halvings + 1))]
        strides = [*[2] * halvings, 1]
        biases = [True, *[norm == "instance"] * halvings]  # BatchNorm has its own
        self.layers = nnx.List(conv(*layer) for layer in zip(widths[:-1], widths[1:], strides, biases))
        self.norms = nnx.List(Norm(width, norm, rngs=rngs) for width in widths[2:])
        self.score = conv(widths[-1], 1, 1, True)

    def __call__(self, x: jax.Array, weight: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x [B, H, W, channels], weight [B] -> scores [B, H', W', 1], 1 for real."""
        x = nnx.leaky_relu(self.layers[0](x), 0.2)
        for layer, norm in zip(self.layers[1:], self.norms):
            x = nnx.leaky_relu(norm(layer(x), weight, train), 0.2)
        return self.score(x)
