"""A small three-dimensional CNN that turns volumes into features (C3D's 3 x 3 x 3 stages, Tran et al. 2015)."""

from dataclasses import dataclass
from itertools import pairwise

import jax
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.conv2d import conv3d
from fedjax_mri.nets.conv.pool import max_pool_3d
from fedjax_mri.nets.layers import HE, Layers
from fedjax_mri.nets.norm import NormKind, check_groups


@dataclass(frozen=True)
class VolumeEncoder:
    """Stages that halve rows and columns each, and slices while there are two."""

    widths: tuple[int, ...] = (16, 32, 64)  # channels of each stage
    norm: NormKind = "group"

    @property
    def features(self) -> int:
        """Channels of what comes out."""
        return self.widths[-1]

    def check(self, image: tuple[int, ...], field: str) -> None:
        """Raises UserError, naming the `field`, on settings that cannot be built, or not for volumes [D, H, W, C]."""
        if len(image) != 4:
            raise UserError(f"{field}: VolumeEncoder wants volumes, not images of {image}; take ResNetEncoder")
        if not self.widths or min(self.widths) < 1:
            raise UserError(f"{field}.widths={self.widths}: give stages of 1 channel or more")
        if min(image[1:3]) < 2 ** len(self.widths):
            raise UserError(f"{field}.widths={self.widths}: as many stages want {2 ** len(self.widths)} px or more")
        check_groups(f"{field}.widths", self.widths, self.norm)

    def module(self, channels: int, layers: Layers) -> "Volume":
        """Returns the encoder of volumes of that number of channels."""
        return Volume(channels, self, layers._replace(norm_kind=self.norm, init=HE))


class Volume(nnx.Module):
    """Stages of 3 x 3 x 3 convolution, norm, ReLU and pool."""

    def __init__(self, channels: int, settings: VolumeEncoder, layers: Layers) -> None:
        pairs = pairwise([channels, *settings.widths])
        self.kernels = nnx.List(nnx.Param(layers.kernel(3, 3, 3, *pair)) for pair in pairs)
        self.norms = nnx.List(layers.norm(width) for width in settings.widths)
        self.policy = layers.policy

    def __call__(self, x: jax.Array, present: jax.Array, train: bool) -> jax.Array:
        """Maps x [B, D, H, W, C] to [B, D', H', W', features]."""
        for kernel, norm in zip(self.kernels, self.norms):
            y = conv3d(x, kernel[...], self.policy)
            flat = norm(y.reshape(y.shape[0], -1, *y.shape[3:]), present, train)  # one norm over all slices
            x = max_pool_3d(nnx.relu(flat).reshape(y.shape))
        return x
