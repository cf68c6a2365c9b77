"""Depthwise convolution: each channel with a window of its own, as shifted products that `vmap` over kernels widens."""

import functools

import jax
import jax.numpy as jnp

from fedjax_mri.nets.conv.conv2d import ConvPolicy
from fedjax_mri.nets.conv.windows import LAYOUT, Padding, Pads, pad_zeros, pads_of, tap_slices


def depthwise(
    x: jax.Array, kernel: jax.Array, stride: int = 1, policy: ConvPolicy = "gemm", padding: Padding = "SAME"
) -> jax.Array:
    """Convolves each channel of x [B, H, W, C] with its kernel of [h, w, C] to [B, H', W', C].

    `xla` is the compiler's grouped convolution. The other policies add up h w products: with one input to an output
    there is no matrix product in it.
    """
    pads = pads_of(padding, x.shape[1:3], kernel.shape[:2], stride)
    if policy == "xla":
        return jax.lax.conv_general_dilated(
            x, kernel[:, :, None], (stride, stride), pads, dimension_numbers=LAYOUT, feature_group_count=x.shape[-1]
        )
    return _sum_of_products(x, kernel, stride, pads)


def _sum_of_products(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    # As for windows: slices are cheap to cut again, so the backward pass does not keep them.
    @jax.checkpoint
    def products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        height, width, channels = kernel.shape
        rows = enumerate(tap_slices(pad_zeros(x, pads), height, 1, stride))
        taps = kernel.reshape(height, width, 1, 1, 1, channels)
        each = [part * taps[i, j] for i, row in rows for j, part in enumerate(tap_slices(row, width, 2, stride))]
        return functools.reduce(jnp.add, each)

    return products(x, kernel)
