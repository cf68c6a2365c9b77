"""A convolution whose result and two gradients are each the compiler's forward convolution, one client after another.

On a CPU the compiler's forward convolution is fast, also inside loops. The gradients that it derives are not (the
kernel's takes 50 times as long as its product in a loop), and neither are the grouped convolutions that `vmap` over
kernels makes. Where its forward convolution is slow, the pass is a product over windows.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.nets.conv.gemm import gemm, gemm_input_gradient, gemm_kernel_gradient
from fedjax_mri.nets.conv.windows import LAYOUT, Pads, backward_pads, pad_zeros

# Figures: `python scripts/layers.py --thresholds`, ms of CPU time on one core, 3 x 3, batch of 16; docs/performance.md.

# From so many outputs, a product over windows is as fast or faster at fewer positions of a batch. Forward: 1.4 for 2.0
# at 256 channels of 4 x 4 px to 512 at stride 2 (64 positions), 2.9 for 2.5 at 256 of 4 x 4 px (256 positions). By
# input, where the convolution needs the kernel turned round: 2.8 for 3.4 at 256 of 4 x 4 px, 9.8 for 9.0 of 8 x 8 px.
MANY_OUTPUTS, FEW_POSITIONS, FEW_POSITIONS_BY_INPUT = 256, 256, 1024

# An output's gradient with more positions in an image is slow as a kernel: 36 ms at 64 channels of 32 x 32 px, where
# one product takes 25; 3.9 and 4.5 of 16 x 16 px. The product needs so many channels.
LARGE_KERNEL, BROAD_CHANNELS = 256, 64

# The compiler's forward convolution is fast from so many outputs. Measured when it was set, not by the script: with 32
# a convolution took .39 ms where with 16 it took 1.65.
FAST_OUTPUTS = 32

# Up to so many taps of a window and its channels, and fewer than FAST_OUTPUTS, a sum over taps is taken: .06 ms for .9
# at 9 taps (docs/performance.md, "A first layer by taps"). 27, a window of three channels, is a choice by rule. The
# kernel's gradient is a product over windows up to so many: .20 ms for .35 at 9 taps to 32 of 32 x 32 px, 1.9 for 2.7
# at 49 taps to 64 of 64 x 64 px at stride 2.
FEW_TAPS, FEW_TAPS_BY_KERNEL = 27, 49


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def direct(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    """Convolves x [B, H, W, C] with kernel [h, w, C, O] to [B, H', W', O]; pads are below the window's reach."""
    few_positions = x.shape[0] * math.prod(result_size(x, kernel, stride, pads, dilation)) < FEW_POSITIONS
    if kernel.shape[3] >= MANY_OUTPUTS and few_positions:
        return gemm(x, kernel, stride, pads, dilation)
    return forward(x, kernel, pads, stride, dilation)


def _backward(
    stride: int, pads: Pads, dilation: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_input = input_gradient(x, kernel, gradient, stride, pads, dilation)
    return by_input, kernel_gradient(x, gradient, (kernel.shape[0], kernel.shape[1]), stride, pads, dilation)


def _forward(x: jax.Array, kernel: jax.Array, *static: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x = computed_once(x)
    return direct(x, kernel, *static), (x, kernel)


direct.defvjp(_forward, _backward)


def computed_once(x: jax.Array) -> jax.Array:
    """Returns x itself, as a selection by two arrays, which the compiler does not repeat for each of its readers.

    A copy of x in another layout would else compute x again, column by column: 4 ms in place of .3 for an activation of
    16 x 16 px and 64 channels behind a norm and a residual sum.
    """
    return jnp.where(x == x, x, jnp.nan)


def suits_direct(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> bool:
    """Returns whether `direct` may be faster than products over windows for x [B, H, W, C] and kernel [h, w, C, O].

    It is not for a window of one pixel, nor for images or results smaller than the window, for which the compiler has
    no fast kernel.
    """
    window = (kernel.shape[0], kernel.shape[1])
    reach = tuple((side - 1) * dilation + 1 for side in window)
    result = result_size(x, kernel, stride, pads, dilation)
    return window != (1, 1) and _covers(x.shape[1:3], reach) and (stride > 1 or _covers(result, reach))


def result_size(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> tuple[int, ...]:
    """Returns H' and W' of the convolution of x [B, H, W, C] with kernel [h, w, C, O]."""
    sizes = zip(x.shape[1:3], kernel.shape, pads)
    return tuple((size + sum(pad) - (side - 1) * dilation - 1) // stride + 1 for size, side, pad in sizes)


def input_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, pads: Pads, dilation: int
) -> jax.Array:
    """Returns the gradient by x [B, H, W, C] from the output's [B, H', W', O].

    It is a convolution with the kernel turned round.
    """
    few_positions = math.prod(gradient.shape[:3]) < FEW_POSITIONS_BY_INPUT
    if stride > 1 or dilation > 1 or (kernel.shape[3] >= MANY_OUTPUTS and few_positions):
        return gemm_input_gradient(x, kernel, gradient, stride, pads, dilation)
    return forward(gradient, kernel[::-1, ::-1].swapaxes(2, 3), backward_pads(pads, kernel.shape[:2]))


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: tuple[int, int], stride: int, pads: Pads, dilation: int
) -> jax.Array:
    """Returns the gradient [h, w, C, O] by the kernel of x [B, H, W, C], from the output's [B, H', W', O].

    It is a convolution over examples as channels, in which the smaller of x and the output's gradient is the kernel, or
    for a large one a few products.
    """
    large, plain = math.prod(gradient.shape[1:3]) > LARGE_KERNEL, stride == dilation == 1
    if large and (not plain or math.prod(window) * x.shape[3] <= FEW_TAPS_BY_KERNEL):
        return gemm_kernel_gradient(x, gradient, window, stride, pads, dilation)
    if large and min(x.shape[3], gradient.shape[3]) >= BROAD_CHANNELS:
        return kernel_gradient_as_product(x, gradient, pads)
    if plain and not _covers(x.shape[1:3], gradient.shape[1:3]):
        return kernel_gradient_input_as_kernel(x, gradient, pads)
    return kernel_gradient_output_as_kernel(x, gradient, window, stride, pads, dilation)


def kernel_gradient_input_as_kernel(x: jax.Array, gradient: jax.Array, pads: Pads) -> jax.Array:
    """Returns the kernel's gradient as a convolution of the output's gradient with x, which flips it."""
    window = [size + sum(pad) - side + 1 for size, side, pad in zip(x.shape[1:3], gradient.shape[1:3], pads)]
    images, kernel = gradient.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3)
    flipped = forward(images, kernel, backward_pads(pads, window))
    return flipped[:, ::-1, ::-1].transpose(1, 2, 3, 0)


def kernel_gradient_output_as_kernel(
    x: jax.Array, gradient: jax.Array, window: tuple[int, int], stride: int, pads: Pads, dilation: int
) -> jax.Array:
    """Returns the kernel's gradient as a convolution of x with the output's gradient.

    Stride and dilation swap in it.
    """
    sizes = zip(x.shape[1:3], gradient.shape[1:3], window, pads)
    after = [(taps - 1) * dilation + (out - 1) * stride + 1 - size - pad[0] for size, out, taps, pad in sizes]
    seen = x[
        :, : x.shape[1] + min(after[0], 0), : x.shape[2] + min(after[1], 0)
    ]  # a stride may leave the last ones out
    rows, columns = ((pad[0], max(end, 0)) for pad, end in zip(pads, after))
    images, kernel = seen.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    return forward(images, kernel, (rows, columns), dilation, stride).transpose(1, 2, 0, 3)


def kernel_gradient_as_product(x: jax.Array, gradient: jax.Array, pads: Pads) -> jax.Array:
    """Returns the kernel's gradient as one product.

    Its factors are x shifted by the window's columns and the gradient shifted by its rows. This takes h + w copies in
    place of the h w that windows are.
    """
    x = pad_zeros(x, pads)
    height, width = gradient.shape[1:3]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    by_column = jnp.concatenate([x[:, :, j : j + width] for j in range(columns)], -1)
    shifts = [((0, 0), (i, rows - 1 - i), (0, 0), (0, 0)) for i in range(rows)]
    by_row = jnp.concatenate([jnp.pad(gradient, shift) for shift in shifts], -1)
    flat = (part.reshape(-1, part.shape[-1]) for part in (by_column, by_row))
    product = jnp.einsum("pk,po->ko", *flat)  # [w C, h O]
    return product.reshape(columns, x.shape[3], rows, -1).transpose(2, 0, 1, 3)


def _covers(image: tuple[int, ...] | list[int], window: tuple[int, ...]) -> bool:
    """Returns whether an image [H, W] is at least as large as the window."""
    return image[0] >= window[0] and image[1] >= window[1]


def forward(x: jax.Array, kernel: jax.Array, pads: Pads, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Returns the fastest forward convolution, without a gradient.

    Under `vmap` over kernels it computes one client after another.
    """
    few_taps = kernel.shape[3] < FAST_OUTPUTS and math.prod(kernel.shape[:3]) <= FEW_TAPS
    if stride == dilation == 1 and few_taps:
        return sum_over_taps(x, kernel, pads)

    @jax.custom_batching.custom_vmap
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return compiled(x, kernel, pads, stride, dilation)

    @convolve.def_vmap
    def each_client(clients: int, batched: list[bool], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        if not batched[1]:
            together = forward(x.reshape(-1, *x.shape[2:]), kernel, pads, stride, dilation)
            return together.reshape(*x.shape[:2], *together.shape[1:]), True
        pairs = [(x[i] if batched[0] else x, kernel[i]) for i in range(clients)]
        return jnp.stack([forward(*pair, pads, stride, dilation) for pair in pairs]), True

    return convolve(x, kernel)


def compiled(x: jax.Array, kernel: jax.Array, pads: Pads, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Returns the compiler's convolution, with a row of zeros added and its result cut off where there is no padding.

    Without any padding the compiler takes another kernel, up to five times slower.
    """
    bare = not any(map(sum, pads))
    rows = (0, stride) if bare else pads[0]
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (rows, pads[1]), rhs_dilation=(dilation, dilation), dimension_numbers=LAYOUT
    )
    return y[:, :-1] if bare else y


def sum_over_taps(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Returns a convolution computed as one float32 loop over the taps and channels of a window."""
    wide = pad_zeros(x, pads).astype(jnp.float32)
    height, width = wide.shape[1] - kernel.shape[0] + 1, wide.shape[2] - kernel.shape[1] + 1

    def product(i: int, j: int, channel: int) -> jax.Array:
        return wide[:, i : i + height, j : j + width, channel, None] * kernel[i, j, channel].reshape(1, 1, 1, -1)

    kernel = kernel.astype(jnp.float32)
    return sum((product(*tap) for tap in np.ndindex(kernel.shape[:3])), jnp.float32(0)).astype(x.dtype)
