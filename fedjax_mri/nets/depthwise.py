"""Depthwise convolution: a window for each channel alone, as shifted products that `vmap` over kernels only widens."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.nets.layers import ConvPolicy, Padding, padded, shifts


def depthwise(
    x: jax.Array, kernel: jax.Array, stride: int = 1, policy: ConvPolicy = "gemm", padding: Padding = "SAME"
) -> jax.Array:
    """x [B, H, W, C], kernel [h, w, C] -> [B, H', W', C].

    `xla` is the compiler's grouped convolution; the other policies add up h w products, for with one input to an output
    there is no matrix product in it.
    """
    if policy == "xla":
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel[:, :, None], (stride, stride), padding, dimension_numbers=layout, feature_group_count=x.shape[-1]
        )
    return _shifted(x, kernel, stride, padding)


def _shifted(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    # As for windows: slices are cheap to cut again, so the backward pass does not keep them.
    @jax.checkpoint
    def products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        height, width, channels = kernel.shape
        rows = shifts(padded(x, (height, width), stride, padding), height, 1, stride)
        taps = kernel.reshape(height, width, 1, 1, 1, channels)
        each = [part * taps[i, j] for i, row in enumerate(rows) for j, part in enumerate(shifts(row, width, 2, stride))]
        return functools.reduce(jnp.add, each)

    return products(x, kernel)


class Depthwise(nnx.Module):
    """`depthwise` with its kernel, and no bias."""

    def __init__(
        self,
        features: int,
        window: Sequence[int],
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        init: nnx.Initializer,
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (*window, features), jnp.float32))
        self.stride, self.padding, self.policy = stride, padding, policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, features] -> [B, H', W', features]."""
        return depthwise(x, self.kernel[...], self.stride, self.policy, self.padding)
