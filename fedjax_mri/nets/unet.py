"""The U-Net of pix2pix (Isola et al. 2017): halvings to a bottleneck, doublings, skip connections at each size.

As in the paper dropout acts in the three innermost doublings, also when a trained network is used, if it has a key. It
is all the noise that pix2pix has, so images made with several keys show how sure the network is.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.dropout import check_rates, dropout
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import ImageNorm
from fedjax_mri.nets.translation import NORMAL

DROPPED = 3  # doublings with dropout, from the innermost


@dataclass(frozen=True)
class UNetSettings:
    """A U-Net for images whose sides are multiples of 2 ** depth."""

    depth: int = 8  # halvings: 8 for 256 px (U-Net-256), 7 for 128 px (U-Net-128)
    width: int = 64  # channels of the first halving; then 2, 4, 8, 8, ... times as many
    norm: ImageNorm = "batch"
    dropout: float = 0.5  # share of values dropped, where there is a key

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """Returns the network from images [H, W, C] to such images.

        Raises UserError on settings that cannot be built.
        """
        depth, width, norm, rate = self.depth, self.width, self.norm, self.dropout
        if depth < 2 or width < 1:
            raise UserError(f"generator.depth={depth}, generator.width={width}: give 2 or more, and 1 or more")
        check_rates({"generator.dropout": rate})
        if any(side % 2**depth for side in image[:2]):
            raise UserError(
                f"generator.depth={depth}: wants multiples of {2**depth} px, images have {image[0]} x {image[1]}"
            )
        return functional(lambda layers: UNet(image[2], depth, width, rate, layers), compute, norm, NORMAL)


class UNet(nnx.Module):
    """4 x 4 convolutions of stride 2, then transposed ones; the outermost and innermost halvings have no norm."""

    def __init__(self, channels: int, depth: int, width: int, rate: float, layers: Layers) -> None:
        bias = layers.norm_kind == "instance"  # BatchNorm has its own
        widths = [width * min(2**level, 8) for level in range(depth)]
        upwards = widths[-2::-1]
        joined = [widths[-1], *(2 * width for width in upwards)]  # the bottleneck; then each doubling with its skip
        halvings = pairwise([channels, *widths])
        self.down = nnx.List(layers.conv(*pair, 4, 2, padding=1, bias=bias) for pair in halvings)
        self.down_norms = nnx.List(layers.norm(width) for width in widths[1:-1])
        self.up = nnx.List(layers.conv_transpose(*pair, 4, bias=bias) for pair in zip(joined, upwards))
        self.up_norms = nnx.List(layers.norm(width) for width in upwards)
        self.last = layers.conv_transpose(joined[-1], channels, 4)
        self.rate = rate

    def __call__(
        self, x: jax.Array, present: jax.Array | None = None, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Maps x [B, H, W, channels] in -1..1 to [B, H, W, channels] in -1..1."""
        skips = self.halvings(x, present, train)
        keys = [None] * DROPPED if key is None else list(jax.random.split(key, DROPPED))
        y = skips.pop()
        for number, (double, norm) in enumerate(zip(self.up, self.up_norms)):
            y = norm(double(nnx.relu(y)), present, train)
            y = dropout(y, self.rate, keys[number]) if number < DROPPED else y
            y = jnp.concatenate([skips.pop(), y], -1)
        return jnp.tanh(self.last(nnx.relu(y)))

    def halvings(self, x: jax.Array, present: jax.Array | None, train: bool) -> list[jax.Array]:
        """Returns the result of each halving, [B, H/2, W/2, width] first.

        The last may be one pixel, so it has no norm.
        """
        results = [self.down[0](x)]
        for conv, norm in zip(self.down[1:-1], self.down_norms):
            results.append(norm(conv(nnx.leaky_relu(results[-1], 0.2)), present, train))
        return [*results, self.down[-1](nnx.leaky_relu(results[-1], 0.2))]
