"""The networks of UNIT (Liu et al. 2017), in the sizes of its authors' later release with MUNIT (Huang et al. 2018).

Each modality has an encoder to a code and a decoder from it; the code of one read by the decoder of another is a
translation. Encoder: convolutions and residual blocks with instance norm. Decoder: residual blocks with instance norm,
then doublings with layer norm (over all of an image, with a scale and a bias for each channel). The paper ties the
layers next to the code between modalities; the release ties none, and its losses alone make the code a common one.
Training adds noise N(0, 1) to the code; that is the task's affair, hence the two functions.

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
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import HE, Conv, ConvPolicy, Norm, instance_norm, reflect_pad
from fedjax_mri.nets.resample import halved_mean, nearest
from fedjax_mri.nets.translation import INIT, residuals, through

Params = Any


class Autoencoder(NamedTuple):
    """One modality's two networks as pure functions; nothing in them changes without a gradient."""

    init: Callable[[jax.Array], Params]  # key -> {"encoder", "decoder"}
    encode: Callable[[Params, jax.Array], jax.Array]  # x [B, H, W, C] in -1..1 -> code [B, H/4, W/4, 4 width]
    decode: Callable[[Params, jax.Array], jax.Array]  # code -> [B, H, W, C] in -1..1


@dataclass(frozen=True)
class UNITSettings:
    """One modality's encoder and decoder, for images whose sides are multiples of 4."""

    width: int = 64  # channels at full size; four times as many in the code
    blocks: int = 4  # residual blocks at a quarter of the size, in the encoder and in the decoder

    def build(self, image: tuple[int, int, int], compute: Compute) -> Autoencoder:
        """For images [H, W, C] to images [H, W, C]. Raises UserError on settings that cannot be built."""
        width, blocks = self.width, self.blocks
        if width < 1 or blocks < 1:
            raise UserError(f"generator.width={width}, generator.blocks={blocks}: give 1 or more of each")
        if any(side < 8 or side % 4 for side in image[:2]):
            raise UserError(f"images of {image[0]} x {image[1]} px: the generator wants multiples of 4, 8 or more")
        shape = image[2], width, blocks, compute.conv
        encoder = functional(lambda rngs: Encoder(*shape, rngs), compute)
        decoder = functional(lambda rngs: Decoder(*shape, rngs), compute)
        return _autoencoder(encoder, decoder)


def _autoencoder(encoder: Net, decoder: Net) -> Autoencoder:
    def init(key: jax.Array) -> Params:
        nets = {"encoder": encoder, "decoder": decoder}
        return {name: net.init(own)[0] for (name, net), own in zip(nets.items(), jax.random.split(key))}

    return Autoencoder(
        init,
        lambda params, x: encoder.apply(params["encoder"], {}, x)[0],
        lambda params, code: decoder.apply(params["decoder"], {}, code)[0],
    )


class Encoder(nnx.Module):
    """7 x 7, two 4 x 4 that halve, residual blocks; mirrored borders."""

    def __init__(self, channels: int, width: int, blocks: int, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        self.first = Mirrored(channels, width, 7, policy=policy, rngs=rngs)
        self.down = nnx.List(
            Mirrored(inputs, 2 * inputs, 4, stride=2, policy=policy, rngs=rngs) for inputs in (width, 2 * width)
        )
        self.blocks = residuals(4 * width, blocks, HE, policy, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, channels] in -1..1 -> code [B, H/4, W/4, 4 width]."""
        for conv in (self.first, *self.down):
            x = nnx.relu(instance_norm(conv(x)))
        return through(self.blocks, x)


class Decoder(nnx.Module):
    """Residual blocks, two doublings each with a 5 x 5, 7 x 7, tanh; mirrored borders."""

    def __init__(self, channels: int, width: int, blocks: int, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        self.blocks = residuals(4 * width, blocks, HE, policy, rngs)
        self.up = nnx.List(
            Mirrored(2 * outputs, outputs, 5, policy=policy, rngs=rngs) for outputs in (2 * width, width)
        )
        self.norms = nnx.List(Norm(outputs, "group", groups=1, rngs=rngs) for outputs in (2 * width, width))
        self.last = Mirrored(width, channels, 7, policy=policy, rngs=rngs)

    def __call__(self, code: jax.Array) -> jax.Array:
        """code [B, H/4, W/4, 4 width] -> [B, H, W, channels] in -1..1."""
        x = through(self.blocks, code)
        for conv, norm in zip(self.up, self.norms):
            x = nnx.relu(norm(conv(nearest(x)), None, False))
        return jnp.tanh(self.last(x))


class Mirrored(nnx.Module):
    """A convolution with a bias, of an image mirrored at its borders so that stride 1 keeps and stride 2 halves it."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int,
        *,
        stride: int = 1,
        init: nnx.Initializer = HE,
        policy: ConvPolicy,
        rngs: nnx.Rngs,
    ) -> None:
        window, none = (side, side), ((0, 0), (0, 0))
        self.conv = Conv(inputs, outputs, window, stride=stride, padding=none, init=init, policy=policy, rngs=rngs)
        self.border = (side - 1) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, inputs] -> [B, H', W', outputs]."""
        return self.conv(reflect_pad(x, self.border))


@dataclass(frozen=True)
class ScalesSettings:
    """A discriminator that looks at the image, at half of it, and so on."""

    width: int = 64  # channels after the first layer
    halvings: int = 4  # layers of stride 2 at each scale
    scales: int = 3

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """For images [H, W, C]. Raises UserError on settings that cannot be built, or not for such images."""
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
        return functional(lambda rngs: Scales(image[2], width, halvings, scales, compute.conv, rngs), compute)


class Scales(nnx.Module):
    """A stack of layers for each scale, means of 3 x 3 pixels between scales."""

    def __init__(
        self, channels: int, width: int, halvings: int, scales: int, policy: ConvPolicy, rngs: nnx.Rngs
    ) -> None:
        self.scales = nnx.List(Patches(channels, width, halvings, policy, rngs) for _ in range(scales))

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """x [B, H, W, channels] -> scores [B, H', W', 1] of each scale, the finest first; 1 for real."""
        scores = []
        for number, patches in enumerate(self.scales):
            x = halved_mean(x) if number else x
            scores.append(patches(x))
        return scores


class Patches(nnx.Module):
    """Mirrored 4 x 4 convolutions of stride 2 with leaky ReLU, no norm, then a score for each pixel left."""

    def __init__(self, channels: int, width: int, halvings: int, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        widths = [channels, *(width << layer for layer in range(halvings))]
        self.layers = nnx.List(
            Mirrored(*pair, 4, stride=2, init=INIT, policy=policy, rngs=rngs) for pair in pairwise(widths)
        )
        self.score = Conv(widths[-1], 1, (1, 1), init=INIT, policy=policy, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, channels] -> scores [B, H', W', 1]."""
        for layer in self.layers:
            x = nnx.leaky_relu(layer(x), 0.2)
        return self.score(x)
