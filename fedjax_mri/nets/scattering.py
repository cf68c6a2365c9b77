"""Softmax regression on a scattering transform (Bruna and Mallat 2013; Oyallon and Mallat 2015, arXiv 1412.8659).

The transform is fixed: moduli of Morlet wavelets, once and twice, averaged over 2^scales pixels. Only the linear layer
learns, so that private training has few parameters to add noise to (Tramer and Boneh 2021, arXiv 2011.11660).
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import group_norm

WIDTH, FREQUENCY = 0.8, 0.75 * math.pi  # of the finest wavelet: deviation in px along its waves, and their frequency
REACH = 2.5  # deviations after which a filter is cut off


@dataclass(frozen=True)
class ScatteringSettings:
    """A scattering transform of order 2 and the norm of its channels."""

    scales: int = 2  # octaves; each halves the image
    angles: int = 8
    groups: int = 27  # of GroupNorm without parameters; as many as divide the channels; 0: none

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [H, W, C]. Raises UserError on images that 2^scales does not divide."""
        image = planar(image, "network ScatteringSettings")
        if self.scales < 1 or self.angles < 1:
            raise UserError(f"network.scales={self.scales}, network.angles={self.angles}: give 1 or more")
        if any(side % 2**self.scales for side in image[:2]):
            raise UserError(f"images of {image[0]} x {image[1]} px: their sides must be multiples of {2**self.scales}")
        channels = image[2] * channels_of(self.scales, self.angles)
        if self.groups and channels % self.groups:
            raise UserError(f"network.groups={self.groups}: must divide the {channels} channels of the transform")
        return functional(lambda layers: Scattering(image, channels, classes, self, layers), compute, "none")


def channels_of(scales: int, angles: int) -> int:
    """Returns how many averages the transform gives of a grey image: of itself, one modulus, and two."""
    return 1 + scales * angles + scales * (scales - 1) // 2 * angles**2


class Scattering(nnx.Module):
    """The fixed transform, its norm, and logits."""

    def __init__(
        self, image: tuple[int, ...], channels: int, classes: int, settings: ScatteringSettings, layers: Layers
    ) -> None:
        self.settings = settings
        positions = math.prod(side >> settings.scales for side in image[:2])
        self.logits = layers.linear(channels * positions, classes)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, C] to logits [B, classes]."""
        settings = self.settings
        found = scatter(x, settings.scales, settings.angles)
        found = group_norm(found, settings.groups) if settings.groups else found
        return self.logits(found.reshape(x.shape[0], -1))


def scatter(x: jax.Array, scales: int, angles: int) -> jax.Array:
    """Returns scattering coefficients of order 0, 1 and 2, x [B, H, W, C] -> [B, H / 2^scales, W / 2^scales, ...]."""
    b, h, w, c = x.shape
    grey = jnp.moveaxis(x, -1, 1).reshape(b * c, h, w, 1).astype(jnp.float32)
    first = [modulus(grey, scale, 0, angles) for scale in range(scales)]
    second = [modulus(first[one], other, one, angles) for one in range(scales) for other in range(one + 1, scales)]
    averaged = [average(grey, scales, 0)]
    averaged += [average(u, scales, scale) for scale, u in enumerate(first)]
    averaged += [average(u, scales, other) for u, other in zip(second, finer_pairs(scales))]
    joined = jnp.concatenate(averaged, -1)
    return jnp.moveaxis(joined.reshape(b, c, *joined.shape[1:]), 1, 3).reshape(b, *joined.shape[1:3], -1)


def finer_pairs(scales: int) -> list[int]:
    """Returns the second scale of each pair of scales of which the second is coarser."""
    return [other for one in range(scales) for other in range(one + 1, scales)]


def modulus(x: jax.Array, scale: int, sampled: int, angles: int) -> jax.Array:
    """Returns |x * wavelet| for each angle, at every 2^scale-th px; x [B, H, W, C], at every 2^sampled-th px."""
    y = filtered(x, wavelets(scale, sampled, angles), 2 ** (scale - sampled))
    return jnp.sqrt(jnp.square(y[..., 0]) + jnp.square(y[..., 1]) + 1e-12).reshape(*y.shape[:3], -1)


def average(x: jax.Array, scales: int, sampled: int) -> jax.Array:
    """Returns x [B, H, W, C], at every 2^sampled-th px, averaged by a Gaussian at every 2^scales-th px."""
    return filtered(x, gaussian(scales, sampled), 2 ** (scales - sampled))[..., 0, 0]


def filtered(x: jax.Array, bank: np.ndarray, stride: int) -> jax.Array:
    """Returns x [B, H, W, C] convolved with a bank [side, side, angles, parts], [B, H', W', C, angles, parts]."""
    b, h, w, c = x.shape
    side, _, angles, parts = bank.shape
    before = side // 2
    single = jnp.moveaxis(x, -1, 1).reshape(b * c, h, w, 1)
    padded = jnp.pad(single, ((0, 0), (before, before), (before, before), (0, 0)), mode="reflect")
    kernel = jnp.asarray(bank.reshape(side, side, 1, angles * parts))
    y = jax.lax.conv_general_dilated(
        padded, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.moveaxis(y.reshape(b, c, *y.shape[1:3], angles, parts), 1, 3)


@functools.cache
def wavelets(scale: int, sampled: int, angles: int) -> np.ndarray:
    """Returns Morlet wavelets of 2^scale times the finest one's width, real and imaginary parts, on a coarser grid.

    float32 [side, side, angles, 2]; the grid has every 2^sampled-th px.
    """
    deviation = WIDTH * 2.0 ** (scale - sampled)
    slant, frequency = 4.0 / angles, FREQUENCY / 2.0 ** (scale - sampled)
    radius = math.ceil(REACH * deviation / min(slant, 1.0))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    found = []
    for angle in range(angles):
        turn = math.pi * angle / angles
        along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * deviation**2))
        wave = envelope * np.exp(1j * frequency * along)
        wave -= envelope * wave.sum() / envelope.sum()  # no answer to a constant
        found.append(wave * slant / (2 * math.pi * deviation**2))
    values = np.stack(found, -1)
    return np.stack([values.real, values.imag], -1).astype(np.float32)


@functools.cache
def gaussian(scales: int, sampled: int) -> np.ndarray:
    """Returns the averaging window, float32 [side, side, 1, 1], on a grid of every 2^sampled-th px; its sum is 1."""
    deviation = WIDTH * 2.0 ** (scales - 1 - sampled)
    radius = math.ceil(REACH * deviation)
    line = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * deviation**2))
    window = np.outer(line, line)
    return (window / window.sum()).astype(np.float32)[..., None, None]
