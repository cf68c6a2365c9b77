"""The one convolution of all networks: which of the ways to compute it is taken for a layer of a given shape."""

from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.nets.conv.direct import direct, suits_direct
from fedjax_mri.nets.conv.each import each, library, windows_are_small
from fedjax_mri.nets.conv.gemm import few_outputs, gemm
from fedjax_mri.nets.conv.windows import Padding, pads_of

ConvPolicy = Literal["xla", "gemm", "direct", "each"]

# With so many times fewer outputs than inputs, products by tap come first. `python scripts/layers.py --thresholds`, 64
# inputs of 32 x 32 px, batch of 16, ms of CPU time for both passes: 17 (`direct` 16, `gemm` 60) for 16 outputs, 10 (14,
# 54) for 8, 2 (10, 39) for 1; for 32 outputs, which do not pass the threshold, 50 (24, 64).
FEWER_OUTPUTS = 4


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    policy: ConvPolicy = "gemm",
    padding: Padding = "SAME",
    dilation: int = 1,
) -> jax.Array:
    """Convolves x [B, H, W, C] with kernel [h, w, C, O] to [B, H', W', O]; for "SAME" H' is ceil(H / stride).

    Taps of the kernel lie `dilation` pixels apart. All policies agree to rounding:

    - `xla` is the compiler's convolution with the compiler's gradients.
    - `gemm` is one matrix product over windows, which stays a batched product under `vmap` over kernels.
    - `direct` is the compiler's forward convolution for the result and both gradients, one client after another. It
      takes layers whose shape suits it, and leaves the others to `gemm`.
    - `each` is the compiler's convolution with the compiler's gradients, one client after another. It leaves layers
      whose windows are small to `gemm`.
    """
    reach = [(side - 1) * dilation + 1 for side in kernel.shape[:2]]
    pads = pads_of(padding, x.shape[1:3], reach, stride)
    if policy == "xla":
        return library(x, kernel, stride, pads, dilation)
    if stride == dilation == 1 and FEWER_OUTPUTS * kernel.shape[3] <= kernel.shape[2]:
        return few_outputs(x, kernel, pads)
    if policy == "direct" and suits_direct(x, kernel, stride, pads, dilation):
        return direct(x, kernel, stride, pads, dilation)
    result = [(size + sum(pad) - side) // stride + 1 for size, side, pad in zip(x.shape[1:3], reach, pads)]
    if policy == "each" and not windows_are_small(x, kernel, result):
        return each(x, kernel, stride, pads, dilation)
    return gemm(x, kernel, stride, pads, dilation)


def conv3d(x: jax.Array, kernel: jax.Array, policy: ConvPolicy) -> jax.Array:
    """Convolves volumes x [B, D, H, W, C] with kernel [d, h, w, C, O], d odd, to [B, D, H, W, O], padded by zeros.

    It is the sum of one `conv2d` for each slice of the kernel.
    """
    reach, depth = kernel.shape[0] // 2, x.shape[1]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)))
    parts = (padded[:, i : i + depth].reshape(-1, *x.shape[2:]) for i in range(kernel.shape[0]))
    y = sum(conv2d(part, kernel[i], 1, policy) for i, part in enumerate(parts))
    return jnp.asarray(y).reshape(*x.shape[:4], -1)
