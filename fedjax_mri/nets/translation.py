"""The generator and the discriminator of CycleGAN (Zhu et al. 2017).

Every generator here and in `unet.py`, `double_unet.py` is applied to (params, carry, x, present, train, key), every
discriminator to (params, carry, x, present, train), and each ignores what it has no use for. Only x must be given:
without the others all examples count, norms use running statistics, and nothing is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import ImageNorm, instance_norm
from fedjax_mri.nets.resample import reflect_pad

NORMAL = nnx.initializers.normal(0.02)


@dataclass(frozen=True)
class GeneratorSettings:
    """The residual generator, for images whose sides are multiples of 4."""

    width: int = 64  # channels at full size; twice as many at half, four times at a quarter of it
    blocks: int = 9  # residual blocks at a quarter of the size; 6 are usual at 128 px, 9 at 256 px

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """Returns the network from images [H, W, C] to such images.

        Raises UserError on settings that cannot be built.
        """
        if self.width < 1 or self.blocks < 1:
            raise UserError(f"generator.width={self.width}, generator.blocks={self.blocks}: give 1 or more of each")
        if any(side < 8 or side % 4 for side in image[:2]):
            raise UserError(f"images of {image[0]} x {image[1]} px: the generator wants multiples of 4, 8 or more")
        shape = image[2], self.width, self.blocks
        return functional(lambda layers: Generator(*shape, layers), compute, "instance", NORMAL)


class Generator(nnx.Module):
    """Down to a quarter of the size, residual blocks, up again, tanh; instance norm, mirrored borders."""

    def __init__(self, channels: int, width: int, blocks: int, layers: Layers) -> None:
        half, quarter = 2 * width, 4 * width
        self.first = layers.conv(channels, width, 7, padding=0)
        self.down = nnx.List(layers.conv(*pair, 3, 2, padding=1) for pair in ((width, half), (half, quarter)))
        self.blocks = residual_blocks(quarter, blocks, layers)
        self.up = nnx.List(layers.conv_transpose(*pair) for pair in ((quarter, half), (half, width)))
        self.last = layers.conv(width, channels, 7, padding=0)

    def __call__(
        self, x: jax.Array, present: jax.Array | None = None, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Maps x [B, H, W, channels] in -1..1 to [B, H, W, channels] in -1..1."""
        del present, train, key
        x = self.first(reflect_pad(x, 3))
        for conv in self.down:
            x = _applied(conv, _norm_relu, x)
        x = apply_blocks(self.blocks, _norm_relu(x))
        x = self.up[0](x)
        x = _applied(self.up[1], _norm_relu, x)
        return jnp.tanh(_applied(self.last, lambda x: reflect_pad(_norm_relu(x), 3), x))


class ResidualBlock(nnx.Module):
    """Two convolutions added to their input."""

    def __init__(self, width: int, layers: Layers) -> None:
        self.first, self.second = (layers.conv(width, width, padding=0) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, width] to [B, H, W, width]."""
        y = _applied(self.first, lambda x: reflect_pad(x, 1), x)
        y = _applied(self.second, lambda y: reflect_pad(_norm_relu(y), 1), y)
        return x + instance_norm(y)


def residual_blocks(width: int, count: int, layers: Layers) -> ResidualBlock:
    """Returns `count` residual blocks as one module with parameters [count, ...], for `apply_blocks`."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap
    def stacked(rngs: nnx.Rngs) -> ResidualBlock:
        return ResidualBlock(width, layers._replace(rngs=rngs))

    return stacked(layers.rngs)


def apply_blocks(blocks: ResidualBlock, x: jax.Array) -> jax.Array:
    """Returns x [B, H, W, width] after one block after another. It is a loop, so that only one block is compiled."""
    return nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, blocks)


def _norm_relu(x: jax.Array) -> jax.Array:
    return nnx.relu(instance_norm(x))


def _applied(layer: Callable[[jax.Array], jax.Array], prepare: Callable[[jax.Array], jax.Array], x: jax.Array) -> Any:
    """Returns layer(prepare(x)) and saves x alone for the gradient; what `prepare` gives is cheap to compute again.

    Otherwise norm, ReLU and mirrored border would each save an image. No convolution is computed again.
    """
    return jax.checkpoint(lambda x: layer(prepare(x)))(x)


@dataclass(frozen=True)
class PatchGANSettings:
    """A discriminator of patches: 70 x 70 px by default (Isola et al. 2017).

    For a conditional one, as pix2pix's with norm "batch", build it for pairs: images of twice the channels.
    """

    width: int = 64  # channels after the first layer
    halvings: int = 3  # layers of stride 2; the patch has a side of 16, 34, 70 or 142 px for 1, 2, 3 or 4
    norm: ImageNorm = "instance"

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """Returns the network for images [H, W, C].

        Raises UserError on settings or images that it cannot be built for.
        """
        width, halvings, norm = self.width, self.halvings, self.norm
        if width < 1 or halvings < 1:
            raise UserError(f"discriminator.width={width}, discriminator.halvings={halvings}: give 1 or more of each")
        least = 3 << halvings
        if min(image[:2]) < least:
            raise UserError(
                f"discriminator.halvings={halvings}: wants {least} px or more, images have {image[0]} x {image[1]}"
            )
        return functional(lambda layers: PatchGAN(image[2], width, halvings, layers), compute, norm, NORMAL)


class PatchGAN(nnx.Module):
    """Scores patches: layers of stride 2, two of stride 1; leaky ReLU; norms, but not of the first and last layer."""

    def __init__(self, channels: int, width: int, halvings: int, layers: Layers) -> None:
        widths = [width * min(2**layer, 8) for layer in range(halvings + 1)]
        bias = layers.norm_kind == "instance"  # BatchNorm has its own
        first = layers.conv(channels, widths[0], 4, 2, padding=1)
        pairs = zip(pairwise(widths), [*[2] * (halvings - 1), 1])
        normed = [layers.conv(*pair, 4, stride, padding=1, bias=bias) for pair, stride in pairs]
        self.layers = nnx.List([first, *normed])
        self.norms = nnx.List(layers.norm(width) for width in widths[1:])
        self.score = layers.conv(widths[-1], 1, 4, padding=1)

    def __call__(self, x: jax.Array, present: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Maps x [B, H, W, channels] to scores [B, H', W', 1], 1 for real."""
        x = nnx.leaky_relu(self.layers[0](x), 0.2)
        for layer, norm in zip(self.layers[1:], self.norms):
            x = nnx.leaky_relu(norm(layer(x), present, train), 0.2)
        return self.score(x)
