"""Double U-Net (Jha et al. 2020, DoubleU-Net) as a translator of images: system A's generator.

As the paper draws it: two U-Nets in sequence. The first has VGG-19's convolutions as its encoder (2, 2, 4, 4, 4 of
them), the second one of its own, of two convolutions a size with squeeze and excitation; both end in atrous spatial
pyramid pooling of rates 6, 12 and 18 (Chen et al. 2017) at 1/16 of the size. Decoders double bilinearly, join skip
connections and convolve twice, with squeeze and excitation (channels / 8 within); the second one joins those of both
encoders. The first U-Net's output is a sigmoid, multiplied with the input it feeds the second. BatchNorm with
norm="batch".

What differs, for the paper segments and this translates:

- VGG-19 starts at random like the rest, without ImageNet's weights, and its convolutions have norms.
- The output is one image in -1..1, by tanh, with as many channels as the input. The first U-Net's output is not an
  output of the whole network, so no loss acts on it directly: it learns through the second U-Net.
- The product is taken of images in 0..1, as in the paper, where 0 is black; inputs in -1..1 are converted for it.
- The default is instance norm, as in other unpaired translators: batches of one, and no statistics to federate.
- The pyramid's branch of the whole image's mean has no norm, which over one pixel of one image would give 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.pool import max_pool
from fedjax_mri.nets.excite import SqueezeExcite
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import LECUN, Layers
from fedjax_mri.nets.norm import ImageNorm
from fedjax_mri.nets.resample import double_bilinear

VGG19 = (2, 2, 4, 4, 4)  # convolutions at each size
ATROUS_RATES = (6, 12, 18)  # dilations of the pyramid's windows
SQUEEZE = 8  # times fewer channels between squeeze and excitation


@dataclass(frozen=True)
class DoubleUNetSettings:
    """Two U-Nets for images whose sides are multiples of 16."""

    width: int = 32  # channels at full size; VGG-19 has twice as many, and both twice as many at half of it, and so on
    norm: ImageNorm = "instance"

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """Returns the network from images [H, W, C] to such images.

        Raises UserError on settings that cannot be built.
        """
        width, norm = self.width, self.norm
        if width < 1:
            raise UserError(f"generator.width={width}: give 1 or more")
        if any(side < 32 or side % 16 for side in image[:2]):
            raise UserError(f"images of {image[0]} x {image[1]} px: the generator wants multiples of 16, 32 or more")
        return functional(lambda layers: DoubleUNet(image[2], width, layers), compute, norm)


class DoubleUNet(nnx.Module):
    """Two U-Nets, the second of which gets the input multiplied by the output of the first."""

    def __init__(self, channels: int, width: int, layers: Layers) -> None:
        wide = [2 * width, 4 * width, 8 * width, 16 * width]  # VGG-19's, of which the last occurs twice
        narrow = [width, 2 * width, 4 * width, 8 * width]
        to_image = layers._replace(init=LECUN)
        self.encoder1 = Encoder(channels, [*wide, wide[-1]], VGG19, False, layers)
        self.pyramid1 = Pyramid(wide[-1], 2 * width, layers)
        self.decoder1 = Decoder(2 * width, wide, narrow, layers)
        self.gate = to_image.conv(width, channels, 1)
        self.encoder2 = Encoder(channels, narrow, (2, 2, 2, 2), True, layers)
        self.pyramid2 = Pyramid(narrow[-1], 2 * width, layers)
        self.decoder2 = Decoder(2 * width, [a + b for a, b in zip(wide, narrow)], narrow, layers)
        self.image = to_image.conv(width, channels, 1)

    def __call__(
        self, x: jax.Array, present: jax.Array | None = None, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Maps x [B, H, W, channels] in -1..1 to [B, H, W, channels] in -1..1."""
        del key
        *skips1, deep = self.encoder1(x, present, train)
        gate = nnx.sigmoid(self.gate(self.decoder1(self.pyramid1(deep, present, train), skips1, present, train)))
        gated = (x + 1) * gate - 1  # 0..1 in the product
        skips2 = self.encoder2(gated, present, train)
        skips = [jnp.concatenate(pair, -1) for pair in zip(skips1, skips2)]
        y = self.pyramid2(max_pool(skips2[-1]), present, train)
        return jnp.tanh(self.image(self.decoder2(y, skips, present, train)))


class Block(nnx.Module):
    """Convolutions each with norm and ReLU, and squeeze and excitation if asked for."""

    def __init__(self, inputs: int, width: int, count: int, excite: bool, layers: Layers) -> None:
        widths = [inputs, *[width] * count]
        self.layers = nnx.List(layers.conv_norm(*pair, 3) for pair in pairwise(widths))
        hidden = max(1, width // SQUEEZE)
        self.excite = SqueezeExcite(width, hidden, bias=False, layers=layers) if excite else None

    def __call__(self, x: jax.Array, present: jax.Array | None, train: bool) -> jax.Array:
        """Maps x [B, H, W, inputs] to [B, H, W, width]."""
        for layer in self.layers:
            x = nnx.relu(layer(x, present, train))
        return x if self.excite is None else self.excite(x)


class Encoder(nnx.Module):
    """A block at each size, and the image halved between them."""

    def __init__(
        self, channels: int, widths: Sequence[int], counts: Sequence[int], excite: bool, layers: Layers
    ) -> None:
        shapes = zip([channels, *widths], widths, counts)
        self.blocks = nnx.List(Block(*shape, excite, layers) for shape in shapes)

    def __call__(self, x: jax.Array, present: jax.Array | None, train: bool) -> list[jax.Array]:
        """Maps x [B, H, W, channels] to the result of each block, [B, H, W, width] first."""
        results = [self.blocks[0](x, present, train)]
        for block in self.blocks[1:]:
            results.append(block(max_pool(results[-1]), present, train))
        return results


class Decoder(nnx.Module):
    """Doublings, each joined with a skip connection and convolved: from 1/16 of the size to all of it."""

    def __init__(self, inputs: int, skips: Sequence[int], widths: Sequence[int], layers: Layers) -> None:
        up = widths[::-1]
        joined = [below + skip for below, skip in zip([inputs, *up], skips[::-1])]
        self.blocks = nnx.List(Block(*pair, 2, True, layers) for pair in zip(joined, up))

    def __call__(self, x: jax.Array, skips: Sequence[jax.Array], present: jax.Array | None, train: bool) -> jax.Array:
        """Maps x [B, H/16, W/16, inputs] and skips, [B, H, W, ...] first, to [B, H, W, widths[0]]."""
        for block, skip in zip(self.blocks, skips[::-1]):
            x = block(jnp.concatenate([double_bilinear(x), skip], -1), present, train)
        return x


class Pyramid(nnx.Module):
    """Atrous spatial pyramid pooling: windows of several dilations, and the whole image's mean, joined."""

    def __init__(self, inputs: int, outputs: int, layers: Layers) -> None:
        self.whole = layers.conv(inputs, outputs, 1)
        self.near = layers.conv_norm(inputs, outputs, 1)
        self.far = nnx.List(layers.conv_norm(inputs, outputs, 3, dilation=rate) for rate in ATROUS_RATES)
        self.joined = layers.conv_norm((2 + len(ATROUS_RATES)) * outputs, outputs, 1)

    def __call__(self, x: jax.Array, present: jax.Array | None, train: bool) -> jax.Array:
        """Maps x [B, H, W, inputs] to [B, H, W, outputs]."""
        mean = nnx.relu(self.whole(x.mean((1, 2), keepdims=True)))
        whole = jnp.broadcast_to(mean, (*x.shape[:3], mean.shape[-1]))
        views = [nnx.relu(layer(x, present, train)) for layer in (self.near, *self.far)]
        return nnx.relu(self.joined(jnp.concatenate([whole, *views], -1), present, train))
