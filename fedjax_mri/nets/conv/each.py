"""The compiler's own convolution and gradients for one client after another, where `vmap` would group all clients.

On a GPU `vmap` over kernels makes grouped convolutions, whose gradients by the kernel have slow kernels in cuDNN.
Ungrouped ones have the library's best. What lies between convolutions still runs for all clients together.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_mri.nets.conv.windows import LAYOUT, Pads

PyTree = Any


def library(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    """Returns the compiler's convolution of x [B, H, W, C] with kernel [h, w, C, O], with the compiler's gradients."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=LAYOUT
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def each(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    """Returns what `library` returns, computed for one client after another under `vmap`."""
    return one_by_one(lambda x, kernel: library(x, kernel, stride, pads, dilation))(x, kernel)


def _backward(
    stride: int, pads: Pads, dilation: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def by_input(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: library(x, kernel, stride, pads, dilation), x)(gradient)[0]

    def by_kernel(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: library(x, kernel, stride, pads, dilation), kernel)(gradient)[0]

    return one_by_one(by_input)(*saved, gradient), one_by_one(by_kernel)(*saved, gradient)


each.defvjp(lambda x, kernel, *settings: (each(x, kernel, *settings), (x, kernel)), _backward)


def one_by_one(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Returns `function` with a `vmap` that calls it once for each client, if more than one argument is batched."""

    @jax.custom_batching.custom_vmap
    def call(*arrays: jax.Array) -> PyTree:
        return function(*arrays)

    @call.def_vmap
    def batch(clients: int, batched: list[bool], *arrays: jax.Array) -> tuple[PyTree, PyTree]:
        if sum(batched) == 1:  # one kernel for all, or one image: nothing is grouped
            result = jax.vmap(function, [0 if one else None for one in batched])(*arrays)
        else:
            rows = ([x[i] if one else x for x, one in zip(arrays, batched)] for i in range(clients))
            result = jax.tree.map(lambda *each: jnp.stack(each), *(one_by_one(function)(*row) for row in rows))
        return result, jax.tree.map(lambda _: True, result)

    return call


def windows_are_small(x: jax.Array, kernel: jax.Array, result: list[int]) -> bool:
    """Returns whether all windows together are no larger than the result or the kernel.

    A product then costs no more memory.

    x is [B, H, W, C], kernel [h, w, C, O], and `result` the shape [H', W'] of the result.
    """
    positions, taps = x.shape[0] * math.prod(result), math.prod(kernel.shape[:3])
    return min(positions, taps) <= kernel.shape[3]
