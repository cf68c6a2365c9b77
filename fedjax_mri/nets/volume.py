"""A small three-dimensional CNN that turns volumes into features (C3D's 3 x 3 x 3 stages, Tran et al. 2015)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.layers import HE, ConvPolicy, Norm, NormKind, check_groups, conv2d, max_pool


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
        """Raises UserError on settings that cannot be built, or not for volumes [D, H, W, 1]."""
        if len(image) != 4:
            raise UserError(f"{field}: VolumeEncoder wants volumes, not images of {image}; take ResNetEncoder")
        if not self.widths or min(self.widths) < 1:
            raise UserError(f"{field}.widths={self.widths}: give stages of 1 channel or more")
        if min(image[1:3]) < 2 ** len(self.widths):
            raise UserError(f"{field}.widths={self.widths}: as many stages want {2 ** len(self.widths)} px or more")
        check_groups(f"{field}.widths", self.widths, self.norm)

    def module(self, channels: int, policy: ConvPolicy, rngs: nnx.Rngs) -> "Volume":
        """Of volumes of so many channels."""
        return Volume(channels, self, policy, rngs)


class Volume(nnx.Module):
    """Convolution, norm, ReLU, pool; stage by stage."""

    def __init__(self, channels: int, settings: VolumeEncoder, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        widths = settings.widths
        pairs = zip((channels, *widths[:-1]), widths)
        self.kernels = nnx.List(nnx.Param(HE(rngs.params(), (3, 3, 3, *pair), jnp.float32)) for pair in pairs)
        self.norms = nnx.List(Norm(width, settings.norm, rngs=rngs) for width in widths)
        self.policy = policy

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, D, H, W, C], weight [B] -> [B, D', H', W', features]."""
        for kernel, norm in zip(self.kernels, self.norms):
            y = conv3d(x, kernel[...], self.policy)
            flat = norm(y.reshape(y.shape[0], -1, *y.shape[3:]), weight, train)  # one norm over all slices
            x = pooled(nnx.relu(flat).reshape(y.shape))
        return x


def conv3d(x: jax.Array, kernel: jax.Array, policy: ConvPolicy) -> jax.Array:
    """Convolution with zeros around: x [B, D, H, W, C], kernel [d, h, w, C, O] -> [B, D, H, W, O], d odd.

    A sum of `conv2d` over the kernel's slices, so that it is computed as images are.
    """
    reach, depth = kernel.shape[0] // 2, x.shape[1]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)))
    parts = (padded[:, i : i + depth].reshape(-1, *x.shape[2:]) for i in range(kernel.shape[0]))
    y = sum(conv2d(part, kernel[i], 1, policy) for i, part in enumerate(parts))
    return jnp.asarray(y).reshape(*x.shape[:4], -1)


def pooled(x: jax.Array) -> jax.Array:
    """The largest of 2 x 2 x 2 voxels, of 2 x 2 where there is one slice; [B, D, H, W, C], odd ends are dropped."""
    batch, depth = x.shape[:2]
    y = max_pool(x.reshape(-1, *x.shape[2:]))
    y = y.reshape(batch, depth, *y.shape[1:])
    return y if depth == 1 else jnp.maximum(y[:, 0 : depth // 2 * 2 : 2], y[:, 1::2])
