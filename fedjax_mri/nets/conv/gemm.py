"""Convolution as one matrix product, over windows of the input or, where outputs are few, of the output's gradient."""

import functools

import jax
import jax.numpy as jnp

from fedjax_mri.nets.conv.windows import Pads, backward_pads, pad_zeros, windows


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def gemm(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    """Convolves x [B, H, W, C] with kernel [h, w, C, O] to [B, H', W', O] as a product over windows.

    Windows are cheap to cut and h w times the size of x, so the backward pass cuts them again. Both gradients are
    products that read and give the kernel as it lies in memory; the compiler's own would be a transposed one.
    """
    cut = windows(x, (kernel.shape[0], kernel.shape[1]), stride, pads, dilation)
    return jnp.einsum("bhwk,ko->bhwo", cut, kernel.reshape(-1, kernel.shape[-1]))


def _gemm_backward(
    stride: int, pads: Pads, dilation: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_kernel = gemm_kernel_gradient(x, gradient, (kernel.shape[0], kernel.shape[1]), stride, pads, dilation)
    return gemm_input_gradient(x, kernel, gradient, stride, pads, dilation), by_kernel


gemm.defvjp(lambda x, kernel, *static: (gemm(x, kernel, *static), (x, kernel)), _gemm_backward)


def gemm_input_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, pads: Pads, dilation: int
) -> jax.Array:
    """Returns the gradient by x [B, H, W, C] from the output's [B, H', W', O]: a product gives that of the windows."""
    window = kernel.shape[0], kernel.shape[1]
    cut = jnp.einsum("bhwo,ko->bhwk", gradient, kernel.reshape(-1, kernel.shape[-1]))
    return jax.linear_transpose(lambda x: windows(x, window, stride, pads, dilation), x)(cut)[0]


def gemm_kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: tuple[int, int], stride: int, pads: Pads, dilation: int
) -> jax.Array:
    """Returns the gradient [h, w, C, O] by the kernel from the output's [B, H', W', O].

    It is a product of the windows with the output's.
    """
    cut = windows(x, window, stride, pads, dilation)
    by_tap = jnp.einsum("pk,po->ko", cut.reshape(-1, cut.shape[-1]), gradient.reshape(-1, gradient.shape[-1]))
    return by_tap.reshape(*window, x.shape[-1], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def few_outputs(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Convolves x at stride 1 to few outputs: first the products by tap, which are small, then their sum."""
    x = pad_zeros(x, pads)
    y = jnp.einsum("bhwc,ijco->bhwijo", x, kernel)
    rows, columns = (size - side + 1 for size, side in zip(x.shape[1:3], kernel.shape))
    y = functools.reduce(jnp.add, [y[:, i : i + rows, :, i] for i in range(kernel.shape[0])])
    return functools.reduce(jnp.add, [y[:, :, j : j + columns, j] for j in range(kernel.shape[1])])


def _backward(pads: Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Windows of the output's gradient are small too, and both gradients are a product with them.
    (x, kernel), (height, width, inputs, outputs) = saved, saved[1].shape
    cut = windows(gradient, (height, width), 1, backward_pads(pads, (height, width)))
    flipped = kernel[::-1, ::-1].swapaxes(2, 3).reshape(-1, inputs)
    by_kernel = jnp.einsum("bhwk,bhwc->kc", cut, x).reshape(height, width, outputs, inputs)
    return jnp.einsum("bhwk,kc->bhwc", cut, flipped), by_kernel[::-1, ::-1].swapaxes(2, 3)


few_outputs.defvjp(lambda x, kernel, pads: (few_outputs(x, kernel, pads), (x, kernel)), _backward)
