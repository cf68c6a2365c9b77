"""Padding of images, and the windows that a kernel sees of them as slices."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

Pads = tuple[tuple[int, int], tuple[int, int]]  # zeros (before, after) the rows, and the columns
Padding = int | Literal["SAME"] | Pads  # int: so many zeros on each side, which at a stride differs from "SAME"
LAYOUT = ("NHWC", "HWIO", "NHWC")  # of images, kernels and results, for the compiler's convolution


def pads_of(padding: Padding, image: Sequence[int], window: Sequence[int], stride: int) -> Pads:
    """Returns the zeros that `padding` puts around an image [H, W] for a window [h, w] that moves by `stride`."""
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    if isinstance(padding, str):
        rows, columns = jax.lax.padtype_to_pads(image, window, (stride, stride), padding)
        return rows, columns
    return padding


def backward_pads(pads: Pads, window: Sequence[int]) -> Pads:
    """Returns the padding of the convolution that gives the gradient by the input.

    It is a full one, window - 1, less `pads`.
    """
    rows, columns = ((side - 1 - before, side - 1 - after) for side, (before, after) in zip(window, pads))
    return rows, columns


def pad_zeros(x: jax.Array, pads: Pads) -> jax.Array:
    """Returns x [B, H, W, C] with zeros around its rows and columns."""
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def tap_slices(x: jax.Array, taps: int, axis: int, stride: int, dilation: int = 1) -> list[jax.Array]:
    """Returns what each of a window's `taps` sees along an axis of x, as the window moves by `stride`.

    There is one slice for each tap.
    """
    length = (x.shape[axis] - (taps - 1) * dilation - 1) // stride * stride + 1
    starts = range(0, taps * dilation, dilation)
    return [jax.lax.slice_in_dim(x, start, start + length, stride, axis) for start in starts]


def windows(x: jax.Array, window: tuple[int, int], stride: int, pads: Pads, dilation: int = 1) -> jax.Array:
    """Returns all windows of x [B, H, W, C] -> [B, H', W', h w C], each window by rows, columns, channels."""
    x = pad_zeros(x, pads)
    for axis in (2, 1):  # one axis after the other: h + w slices instead of h w
        x = jnp.concatenate(tap_slices(x, window[axis - 1], axis, stride, dilation), -1)
    return x
