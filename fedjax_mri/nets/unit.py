"""The networks of UNIT (Liu et al. 2017), in the sizes of its authors' later release with MUNIT (Huang et al. 2018).

Each modality has an encoder to a code and a decoder from it; one modality's decoder translates the other's code. The
encoder has convolutions and residual blocks with instance norm; the decoder has residual blocks with instance norm,
then doublings with layer norm (over all of an image, with a scale and a bias for each channel). The paper shares the
layers next to the code between modalities; the release shares none, and its losses alone make the code a common one.
Training adds noise N(0, 1) to the code, which the task does: so encoder and decoder are two functions.

Norms divide by the root of the variance + 1e-5 where the release divides by the deviation + 1e-5, and layer norm's
scales start at 1, not at random.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import instance_norm
from fedjax_mri.nets.resample import double_nearest, halve_mean, reflect_pad
from fedjax_mri.nets.translation import NORMAL, apply_blocks, residual_blocks

Params = Any


class Autoencoder(NamedTuple):
    """One modality's encoder and decoder as pure functions; neither has running statistics."""

    init: Callable[[jax.Array], Params]  # key -> {"encoder", "decoder"}
    encode: Callable[[Params, jax.Array], jax.Array]  # x [B, H, W, C] in -1..1 -> code [B, H/4, W/4, 4 width]
    decode: Callable[[Params, jax.Array], jax.Array]  # code -> [B, H, W, C] in -1..1


@dataclass(frozen=True)
class UNITSettings:
    """One modality's encoder and decoder, for images whose sides are multiples of 4."""

    width: int = 64  # channels at full size; four times as many in the code
    blocks: int = 4  # residual blocks at a quarter of the size, in the encoder and in the decoder

    def build(self, image: tuple[int, int, int], compute: Compute) -> Autoencoder:
        """Returns the networks from images [H, W, C] to a code and back.

        Raises UserError on settings that cannot be built.
        """
        width, blocks = self.width, self.blocks
        if width < 1 or blocks < 1:
            raise UserError(f"generator.width={width}, generator.blocks={blocks}: give 1 or more of each")
        if any(side < 8 or side % 4 for side in image[:2]):
            raise UserError(f"images of {image[0]} x {image[1]} px: the generator wants multiples of 4, 8 or more")
        shape = image[2], width, blocks
        encoder = functional(lambda layers: Encoder(*shape, layers), compute)
        decoder = functional(lambda layers: Decoder(*shape, layers), compute)
        return _autoencoder(encoder, decoder)


def _autoencoder(encoder: Net, decoder: Net) -> Autoencoder:
    def init(key: jax.Array) -> Params:
        for_encoder, for_decoder = jax.random.split(key)
        return {"encoder": encoder.init(for_encoder)[0], "decoder": decoder.init(for_decoder)[0]}

    return Autoencoder(
        init,
        lambda params, x: encoder.apply(params["encoder"], {}, x)[0],
        lambda params, code: decoder.apply(params["decoder"], {}, code)[0],
    )


class Encoder(nnx.Module):
    """A 7 x 7 convolution, two 4 x 4 that halve, residual blocks; mirrored borders."""

    def __init__(self, channels: int, width: int, blocks: int, layers: Layers) -> None:
        self.first = MirroredConv(channels, width, 7, 1, layers)
        self.down = nnx.List(MirroredConv(inputs, 2 * inputs, 4, 2, layers) for inputs in (width, 2 * width))
        self.blocks = residual_blocks(4 * width, blocks, layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, channels] in -1..1 to a code [B, H/4, W/4, 4 width]."""
        for conv in (self.first, *self.down):
            x = nnx.relu(instance_norm(conv(x)))
        return apply_blocks(self.blocks, x)


class Decoder(nnx.Module):
    """Residual blocks, two doublings each with a 5 x 5 convolution, a 7 x 7 one, tanh; mirrored borders."""

    def __init__(self, channels: int, width: int, blocks: int, layers: Layers) -> None:
        self.blocks = residual_blocks(4 * width, blocks, layers)
        self.up = nnx.List(MirroredConv(2 * outputs, outputs, 5, 1, layers) for outputs in (2 * width, width))
        self.norms = nnx.List(layers.norm(outputs, groups=1) for outputs in (2 * width, width))
        self.last = MirroredConv(width, channels, 7, 1, layers)

    def __call__(self, code: jax.Array) -> jax.Array:
        """Maps a code [B, H/4, W/4, 4 width] to [B, H, W, channels] in -1..1."""
        x = apply_blocks(self.blocks, code)
        for conv, norm in zip(self.up, self.norms):
            x = nnx.relu(norm(conv(double_nearest(x)), None, False))
        return jnp.tanh(self.last(x))


class MirroredConv(nnx.Module):
    """A convolution of an image whose borders are mirrored, so that stride 1 keeps its size and stride 2 halves it."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, layers: Layers) -> None:
        self.conv = layers.conv(inputs, outputs, side, stride, padding=0)
        self.border = (side - 1) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, inputs] to [B, H', W', outputs]."""
        return self.conv(reflect_pad(x, self.border))


@dataclass(frozen=True)
class ScalesSettings:
    """A discriminator that scores the image at full size, at half of it, and so on."""

    width: int = 64  # channels after the first layer
    halvings: int = 4  # layers of stride 2 at each scale
    scales: int = 3

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """Returns the network for images [H, W, C].

        Raises UserError on settings or images that it cannot be built for.
        """
        width, halvings, scales = self.width, self.halvings, self.scales
        if min(width, halvings, scales) < 1:
            raise UserError(
                f"discriminator.width={width}, discriminator.halvings={halvings}, discriminator.scales={scales}: "
                "give 1 or more of each"
            )
        least = 2 ** (halvings + scales - 1)
        if any(side < least for side in image[:2]):
            raise UserError(
                f"discriminator.scales={scales}, discriminator.halvings={halvings}: want {least} px or more, "
                f"images have {image[0]} x {image[1]}"
            )
        return functional(lambda layers: Scales(image[2], width, halvings, scales, layers), compute, init=NORMAL)


class Scales(nnx.Module):
    """One `Patches` discriminator for each scale; means of 3 x 3 pixels halve the image between scales."""

    def __init__(self, channels: int, width: int, halvings: int, scales: int, layers: Layers) -> None:
        self.scales = nnx.List(Patches(channels, width, halvings, layers) for _ in range(scales))

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Maps x [B, H, W, channels] to scores [B, H', W', 1] of each scale, the finest first; 1 for real."""
        scores = []
        for number, patches in enumerate(self.scales):
            x = halve_mean(x) if number else x
            scores.append(patches(x))
        return scores


class Patches(nnx.Module):
    """4 x 4 convolutions of stride 2 with mirrored borders and leaky ReLU, then a score for each pixel left."""

    def __init__(self, channels: int, width: int, halvings: int, layers: Layers) -> None:
        widths = [channels, *(width << layer for layer in range(halvings))]
        self.layers = nnx.List(MirroredConv(*pair, 4, 2, layers) for pair in pairwise(widths))
        self.score = layers.conv(widths[-1], 1, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, channels] to scores [B, H', W', 1]."""
        for layer in self.layers:
            x = nnx.leaky_relu(layer(x), 0.2)
        return self.score(x)
