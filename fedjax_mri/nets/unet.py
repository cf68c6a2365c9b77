"""The U-Net of pix2pix (Isola et al. 2017): halved down to a bottleneck, doubled up again, each size joined across.

As in the paper dropout acts in the three innermost doublings, and stays on when the network is used if it is given a
key: it is all the noise that pix2pix has, so images made with several keys show how sure it is. Without a key nothing
is dropped.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.dropout import check_rates, dropout
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Conv, ConvPolicy, ConvTranspose, ImageNorm, Norm, around
from fedjax_mri.nets.translation import INIT

DROPPED = 3  # doublings with dropout, from the innermost


@dataclass(frozen=True)
class UNetSettings:
    """A U-Net for images whose sides are multiples of 2 ** depth."""

    depth: int = 8  # halvings: 8 for 256 px (U-Net-256), 7 for 128 px (U-Net-128)
    width: int = 64  # channels of the first halving; then 2, 4, 8, 8, ... times as many
    norm: ImageNorm = "batch"
    dropout: float = 0.5  # share of values dropped, where there is a key

    def build(self, image: tuple[int, int, int], compute: Compute) -> Net:
        """For images [H, W, C] to images [H, W, C]. Raises UserError on settings that cannot be built."""
        depth, width, norm, rate = self.depth, self.width, self.norm, self.dropout
        if depth < 2 or width < 1:
            raise UserError(f"generator.depth={depth}, generator.width={width}: give 2 or more, and 1 or more")
        check_rates({"generator.dropout": rate})
        if any(side % 2**depth for side in image[:2]):
            raise UserError(
                f"generator.depth={depth}: wants multiples of {2**depth} px, images have {image[0]} x {image[1]}"
            )
        return functional(lambda rngs: UNet(image[2], depth, width, norm, rate, compute.conv, rngs), compute)


class UNet(nnx.Module):
    """4 x 4 convolutions of stride 2, then transposed ones; the outermost and innermost halvings have no norm."""

    def __init__(
        self, channels: int, depth: int, width: int, norm: ImageNorm, rate: float, policy: ConvPolicy, rngs: nnx.Rngs
    ) -> None:
        bias = norm == "instance"  # BatchNorm has its own
        widths = [width * min(2**level, 8) for level in range(depth)]
        inner = [*(2 * width for width in widths[:0:-1])]  # what came up joined with what came across
        inner[0] = widths[-1]

        def down(inputs: int, outputs: int) -> Conv:
            pads = around(1)
            return Conv(inputs, outputs, (4, 4), stride=2, padding=pads, bias=bias, init=INIT, policy=policy, rngs=rngs)

        def up(inputs: int, outputs: int, bias: bool) -> ConvTranspose:
            return ConvTranspose(inputs, outputs, 4, bias=bias, init=INIT, policy=policy, rngs=rngs)

        def norms(widths: list[int]) -> nnx.List:
            return nnx.List(Norm(width, norm, rngs=rngs) for width in widths)

        self.down = nnx.List(down(*pair) for pair in zip([channels, *widths], widths))
        self.down_norms = norms(widths[1:-1])
        self.up = nnx.List(up(*pair, bias) for pair in zip(inner, widths[-2::-1]))
        self.up_norms = norms(widths[-2::-1])
        self.last = up(2 * width, channels, True)
        self.rate = rate

    def __call__(
        self, x: jax.Array, weight: jax.Array | None = None, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x [B, H, W, channels] in -1..1, weight [B], key (None: nothing dropped) -> [B, H, W, channels] in -1..1."""
        across = self.halved(x, weight, train)
        keys = [None] * DROPPED if key is None else list(jax.random.split(key, DROPPED))
        y = across.pop()
        for number, (double, norm) in enumerate(zip(self.up, self.up_norms)):
            y = norm(double(nnx.relu(y)), weight, train)
            y = dropout(y, self.rate, keys[number]) if number < DROPPED else y
            y = jnp.concatenate([across.pop(), y], -1)
        return jnp.tanh(self.last(nnx.relu(y)))

    def halved(self, x: jax.Array, weight: jax.Array | None, train: bool) -> list[jax.Array]:
        """What each halving gives, [B, H/2, W/2, width] first; the last, of 1 x 1 pixels maybe, without a norm."""
        found = [self.down[0](x)]
        for conv, norm in zip(self.down[1:-1], self.down_norms):
            found.append(norm(conv(nnx.leaky_relu(found[-1], 0.2)), weight, train))
        return [*found, self.down[-1](nnx.leaky_relu(found[-1], 0.2))]
