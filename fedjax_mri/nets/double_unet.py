"""Double U-Net (Jha et al. 2020, DoubleU-Net) as a translator of images: system A's generator.

As the paper draws it: two U-Nets in sequence. The first has VGG-19's convolutions as its encoder (2, 2, 4, 4, 4 of
them), the second one of its own, of two convolutions a size with squeeze and excitation; both end in atrous spatial
pyramid pooling of rates 6, 12 and 18 (Chen et al. 2017) at 1/16 of the size. Decoders double bilinearly, join what lies
across and convolve twice, with squeeze and excitation (channels / 8 within); the second one joins what lies across in
both encoders. The first U-Net's output is a sigmoid, multiplied with the input it feeds the second. BatchNorm with
norm="batch".

What differs, for the paper segments and this translates:

- VGG-19 starts at random like the rest, for ImageNet's weights are not to be had here; its convolutions are normed.
- The output is one image in -1..1, by tanh, of the input's channels. The first U-Net's output is no output of the
  whole, so no loss judges it alone: it learns, through the second, where to look.
- The product is taken of images in 0..1, as there, where 0 is black; inputs in -1..1 go there and back.
- The default is instance norm, as in other unpaired translators: batches of one, and no statistics to federate.
- The pyramid's branch of the whole image's mean has no norm: over one pixel of one image it would leave nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.excite import SqueezeExcite
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Conv, ConvPolicy, ImageNorm, Norm, max_pool
from fedjax_mri.nets.resample import bilinear

VGG = (2, 2, 4, 4, 4)  # convolutions at each size
RATES = (6, 12, 18)  # pixels between the taps of the pyramid's windows
SQUEEZE = 8  # times fewer channels between squeeze and excitation

Make = Callable[..., "Layer"]


@dataclass(frozen=True)
class DoubleUNetSettings:
    """Two U-Nets for images whose sides are multiples of 16."""

    width: int = 32  # channels at full size; VGG-19 has twice as many, and both twice as many at half of it, and so on
    norm: ImageNorm = "instance"

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """For images [H, W, C] to images [H, W, C]. Raises UserError on settings that cannot be built."""
        width, norm = self.width, self.norm
        if width < 1:
            raise UserError(f"generator.width={width}: give 1 or more")
        if any(side < 32 or side % 16 for side in image[:2]):
            raise UserError(f"images of {image[0]} x {image[1]} px: the generator wants multiples of 16, 32 or more")
        return functional(lambda rngs: DoubleUNet(image[2], width, norm, policy=compute.conv, rngs=rngs), compute)


class DoubleUNet(nnx.Module):
    """Two U-Nets, the second of which sees the input where the first lets it."""

    def __init__(self, channels: int, width: int, norm: ImageNorm, *, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        def make(inputs: int, outputs: int, side: int = 3, dilation: int = 1) -> Layer:
            return Layer(inputs, outputs, side, dilation, norm, policy, rngs)

        def head() -> Conv:
            return Conv(width, channels, (1, 1), init=nnx.initializers.lecun_normal(), policy=policy, rngs=rngs)

        wide = [2 * width, 4 * width, 8 * width, 16 * width]  # VGG-19's, of which the last occurs twice
        narrow = [width, 2 * width, 4 * width, 8 * width]
        self.encoder1 = Encoder(channels, [*wide, wide[-1]], VGG, False, make, rngs)
        self.pyramid1 = Pyramid(wide[-1], 2 * width, make, policy, rngs)
        self.decoder1 = Decoder(2 * width, wide, narrow, make, rngs)
        self.gate = head()
        self.encoder2 = Encoder(channels, narrow, (2, 2, 2, 2), True, make, rngs)
        self.pyramid2 = Pyramid(narrow[-1], 2 * width, make, policy, rngs)
        self.decoder2 = Decoder(2 * width, [a + b for a, b in zip(wide, narrow)], narrow, make, rngs)
        self.image = head()

    def __call__(
        self, x: jax.Array, weight: jax.Array | None = None, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x [B, H, W, channels] in -1..1, weight [B] -> [B, H, W, channels] in -1..1."""
        del key
        *first, deep = self.encoder1(x, weight, train)
        shown = nnx.sigmoid(self.gate(self.decoder1(self.pyramid1(deep, weight, train), first, weight, train)))
        gated = (x + 1) * shown - 1  # 0..1 in the product
        second = self.encoder2(gated, weight, train)
        across = [jnp.concatenate(pair, -1) for pair in zip(first, second)]
        y = self.pyramid2(max_pool(second[-1]), weight, train)
        return jnp.tanh(self.image(self.decoder2(y, across, weight, train)))


class Layer(nnx.Module):
    """Convolution, norm, ReLU, at one size."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int,
        dilation: int,
        norm: ImageNorm,
        policy: ConvPolicy,
        rngs: nnx.Rngs,
    ) -> None:
        window = side, side
        self.conv = Conv(inputs, outputs, window, dilation=dilation, bias=False, policy=policy, rngs=rngs)
        self.norm = Norm(outputs, norm, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array | None, train: bool) -> jax.Array:
        """x [B, H, W, inputs] -> [B, H, W, outputs]."""
        return nnx.relu(self.norm(self.conv(x), weight, train))


class Block(nnx.Module):
    """Layers one after another, and squeeze and excitation if asked for."""

    def __init__(self, inputs: int, width: int, count: int, excite: bool, make: Make, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(make(inputs if number == 0 else width, width) for number in range(count))
        self.excite = SqueezeExcite(width, max(1, width // SQUEEZE), bias=False, rngs=rngs) if excite else None

    def __call__(self, x: jax.Array, weight: jax.Array | None, train: bool) -> jax.Array:
        """x [B, H, W, inputs] -> [B, H, W, width]."""
        for layer in self.layers:
            x = layer(x, weight, train)
        return x if self.excite is None else self.excite(x)


class Encoder(nnx.Module):
    """A block at each size, and the image halved between them."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        counts: Sequence[int],
        excite: bool,
        make: Make,
        rngs: nnx.Rngs,
    ) -> None:
        shapes = zip([channels, *widths], widths, counts)
        self.blocks = nnx.List(Block(*shape, excite, make, rngs) for shape in shapes)

    def __call__(self, x: jax.Array, weight: jax.Array | None, train: bool) -> list[jax.Array]:
        """x [B, H, W, channels] -> what each block gives, [B, H, W, width] first."""
        found = [self.blocks[0](x, weight, train)]
        for block in self.blocks[1:]:
            found.append(block(max_pool(found[-1]), weight, train))
        return found


class Decoder(nnx.Module):
    """Doubled, joined with what lies across, convolved: from 1/16 of the size to all of it."""

    def __init__(self, inputs: int, across: Sequence[int], widths: Sequence[int], make: Make, rngs: nnx.Rngs) -> None:
        up = widths[::-1]
        joined = [below + beside for below, beside in zip([inputs, *up], across[::-1])]
        self.blocks = nnx.List(Block(*pair, 2, True, make, rngs) for pair in zip(joined, up))

    def __call__(self, x: jax.Array, across: Sequence[jax.Array], weight: jax.Array | None, train: bool) -> jax.Array:
        """x [B, H/16, W/16, inputs], across [B, H, W, ...] first -> [B, H, W, widths[0]]."""
        for block, beside in zip(self.blocks, across[::-1]):
            x = block(jnp.concatenate([bilinear(x), beside], -1), weight, train)
        return x


class Pyramid(nnx.Module):
    """Atrous spatial pyramid pooling: windows of several reaches, and the whole image's mean, joined."""

    def __init__(self, inputs: int, outputs: int, make: Make, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        self.whole = Conv(inputs, outputs, (1, 1), policy=policy, rngs=rngs)
        self.near = make(inputs, outputs, 1)
        self.far = nnx.List(make(inputs, outputs, 3, rate) for rate in RATES)
        self.joined = make((2 + len(RATES)) * outputs, outputs, 1)

    def __call__(self, x: jax.Array, weight: jax.Array | None, train: bool) -> jax.Array:
        """x [B, H, W, inputs] -> [B, H, W, outputs]."""
        mean = nnx.relu(self.whole(x.mean((1, 2), keepdims=True)))
        whole = jnp.broadcast_to(mean, (*x.shape[:3], mean.shape[-1]))
        views = [layer(x, weight, train) for layer in (self.near, *self.far)]
        return self.joined(jnp.concatenate([whole, *views], -1), weight, train)
