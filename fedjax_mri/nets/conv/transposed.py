"""The transposed convolution that doubles an image, as a plain convolution whose outputs are squares of pixels."""

import jax
import jax.numpy as jnp

from fedjax_mri.nets.conv.conv2d import ConvPolicy, conv2d


def conv2d_transpose(x: jax.Array, kernel: jax.Array, policy: ConvPolicy = "gemm") -> jax.Array:
    """Doubles the image: x [B, H, W, C], kernel [3, 3, C, O] or [4, 4, C, O] -> [B, 2H, 2W, O].

    y[2i + k - 1] sums x[i] kernel[k]: a transposed convolution of stride 2 and padding 1, for 3 taps with output
    padding 1. Each 2 x 2 square of y sees 2 x 2 pixels of x, so it is a plain convolution whose outputs are squares; no
    product with the zeros that a dilated image would hold.
    """
    return (_double_by_three if kernel.shape[0] == 3 else _double_by_four)(x, kernel, policy)


def _double_by_three(x: jax.Array, kernel: jax.Array, policy: ConvPolicy) -> jax.Array:
    batch, height, width, _ = x.shape
    outputs = kernel.shape[-1]
    # Along an axis pixel a of x reaches pixel p of the square by tap 1 + p - 2a; a tap -1 of zeros makes four of three.
    taps = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(2, 2, 2, 2, *kernel.shape[2:])[::-1, :, ::-1]
    y = conv2d(x, _square_kernel(taps), 1, policy, ((0, 1), (0, 1))).reshape(batch, height, width, 2, 2, outputs)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, outputs)


def _double_by_four(x: jax.Array, kernel: jax.Array, policy: ConvPolicy) -> jax.Array:
    batch, height, width, _ = x.shape
    outputs = kernel.shape[-1]
    # Pixel a of two reaches pixel p of the square by tap 3 - 2a - p; the squares' second pixels see one pixel further.
    taps = kernel[::-1, ::-1].reshape(2, 2, 2, 2, *kernel.shape[2:])
    y = conv2d(x, _square_kernel(taps), 1, policy, 1).reshape(batch, height + 1, width + 1, 2, 2, outputs)
    y = jnp.stack([y[:, p : p + height, :, p] for p in range(2)], 2)
    y = jnp.stack([y[:, :, :, q : q + width, q] for q in range(2)], 4)
    return y.reshape(batch, 2 * height, 2 * width, outputs)


def _square_kernel(taps: jax.Array) -> jax.Array:
    """Returns a kernel [2, 2, C, 4 O] of taps [2 rows of x, 2 of the square, 2 columns of x, 2 of the square, C, O]."""
    return taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, taps.shape[4], -1)
