"""The layers every network is made of: one convolution, computed in one of three ways; one norm; pools."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.direct import Pads, direct, opposite, suits

ConvPolicy = Literal["xla", "gemm", "direct"]
NormKind = Literal["group", "batch", "none"]
ImageNorm = Literal["batch", "instance"]  # of networks that make images, and of those that judge them
Padding = Literal["SAME"] | Pads  # zeros before and after, of rows and of columns

GROUPS = 8  # of GroupNorm; a layer of fewer channels has a group for each
HE = nnx.initializers.he_normal()


def around(width: int) -> Padding:
    """`width` zeros on each side: what other libraries call padding=width. At a stride "SAME" is something else."""
    return (width, width), (width, width)


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    policy: ConvPolicy = "gemm",
    padding: Padding = "SAME",
    dilation: int = 1,
) -> jax.Array:
    """Convolution: x [B, H, W, C], kernel [h, w, C, O] -> [B, H', W', O]; for "SAME" H' is ceil(H/stride).

    Taps of the kernel lie `dilation` pixels apart.

    All policies agree to rounding. `xla` is the compiler's convolution and its gradients. `direct` is the compiler's
    forward convolution for the result and both gradients, one client after another (at stride 1, where it `suits`;
    else `gemm`).
    `gemm` is one matrix product over shifted slices, which stays a batched product under `vmap` over kernels.
    """
    if policy == "xla":
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation), dimension_numbers=layout
        )
    if dilation > 1:
        return _gemm(x, kernel, stride, padding, dilation)
    pads = _pads(x, kernel.shape[:2], stride, padding)
    if stride == 1 and 4 * kernel.shape[3] <= kernel.shape[2]:
        return _products(x, kernel, pads)
    if policy == "direct" and stride == 1 and suits(x, kernel, pads):
        return direct(x, kernel, pads)
    return _gemm(x, kernel, stride, padding)


def patches(
    x: jax.Array, window: tuple[int, int], stride: int, padding: Padding = "SAME", dilation: int = 1
) -> jax.Array:
    """Windows of a convolution, x [B, H, W, C] -> [B, H', W', h*w*C], row-major over the window."""
    reach = (window[0] - 1) * dilation + 1, (window[1] - 1) * dilation + 1
    x = padded(x, reach, stride, padding)
    for axis in (2, 1):  # one axis after the other: h + w slices instead of h*w
        shifted = shifts(x, window[axis - 1], axis, stride, dilation)
        x = jnp.concatenate(shifted, -1)
    return x


def shifts(x: jax.Array, side: int, axis: int, stride: int, dilation: int = 1) -> list[jax.Array]:
    """What each of a window's `side` taps sees of x along an axis, as it moves by `stride`."""
    length = (x.shape[axis] - (side - 1) * dilation - 1) // stride * stride + 1
    starts = range(0, side * dilation, dilation)
    return [jax.lax.slice_in_dim(x, start, start + length, stride, axis) for start in starts]


def padded(x: jax.Array, window: tuple[int, ...], stride: int, padding: Padding) -> jax.Array:
    """x [B, H, W, C] with the zeros around it that a convolution wants."""
    return jnp.pad(x, ((0, 0), *_pads(x, window, stride, padding), (0, 0)))


def _pads(x: jax.Array, window: tuple[int, ...], stride: int, padding: Padding) -> Pads:
    if padding != "SAME":
        return padding
    (top, bottom), (left, right) = jax.lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), padding)
    return (top, bottom), (left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _products(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    # With few outputs it is their products that are small, not the windows: multiply, then shift and add.
    x = padded(x, kernel.shape[:2], 1, pads)
    y = jnp.einsum("bhwc,ijco->bhwijo", x, kernel)
    rows, columns = (size - side + 1 for size, side in zip(x.shape[1:3], kernel.shape))
    y = functools.reduce(jnp.add, [y[:, i : i + rows, :, i] for i in range(kernel.shape[0])])
    return functools.reduce(jnp.add, [y[:, :, j : j + columns, j] for j in range(kernel.shape[1])])


def _forward(x: jax.Array, kernel: jax.Array, pads: Pads) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _products(x, kernel, pads), (x, kernel)


def _backward(pads: Pads, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # And then windows of the output's gradient are small: both gradients are a product with them.
    (x, kernel), (height, width, inputs, outputs) = kept, kept[1].shape
    windows = patches(gradient, (height, width), 1, opposite(pads, (height, width)))
    turned = kernel[::-1, ::-1].swapaxes(2, 3).reshape(-1, inputs)
    by_kernel = jnp.einsum("bhwk,bhwc->kc", windows, x).reshape(height, width, outputs, inputs)
    return jnp.einsum("bhwk,kc->bhwc", windows, turned), by_kernel[::-1, ::-1].swapaxes(2, 3)


_products.defvjp(_forward, _backward)


def _gemm(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int = 1) -> jax.Array:
    # Windows are cheap to cut again and nine times the size of x, so the backward pass recomputes them.
    @jax.checkpoint
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        windows = patches(x, (kernel.shape[0], kernel.shape[1]), stride, padding, dilation)
        return jnp.einsum("bhwk,ko->bhwo", windows, kernel.reshape(-1, kernel.shape[-1]))

    return product(x, kernel)


def max_pool(x: jax.Array) -> jax.Array:
    """Largest of each 2 x 2 square, x [B, H, W, C] -> [B, H//2, W//2, C]; an odd last row or column is dropped."""
    height, width = (size // 2 * 2 for size in x.shape[1:3])
    return _largest_of_squares(x[:, :height, :width])


@jax.custom_vjp
def _largest_of_squares(x: jax.Array) -> jax.Array:
    return _pool(x)[0]


def _pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest of each square, and which of its four it was (the first of equals): all its gradient needs."""
    a, b, c, d = (x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    top, bottom = jnp.maximum(a, b), jnp.maximum(c, d)
    which = jnp.where(top >= bottom, jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3))
    return jnp.maximum(top, bottom), which.astype(jnp.uint8)


def _unpool(which: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    batch, height, width, channels = which.shape
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    hit = which[:, :, None, :, None] == corner
    spread = jnp.where(hit, gradient[:, :, None, :, None], jnp.zeros((), gradient.dtype))
    return (spread.reshape(batch, 2 * height, 2 * width, channels),)


_largest_of_squares.defvjp(_pool, _unpool)


def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """Largest of each 3 x 3 square around every second pixel, x [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C]."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    x = functools.reduce(jnp.maximum, [x[:, i : i + rows : 2] for i in range(3)])
    return functools.reduce(jnp.maximum, [x[:, :, j : j + columns : 2] for j in range(3)])


def reflect_pad(x: jax.Array, width: int) -> jax.Array:
    """The border mirrored outwards, its own pixels not repeated, x [B, H, W, C] -> [B, H + 2w, W + 2w, C]."""
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect")


def conv2d_transpose(x: jax.Array, kernel: jax.Array, policy: ConvPolicy = "gemm") -> jax.Array:
    """Doubles the image: x [B, H, W, C], kernel [3, 3, C, O] or [4, 4, C, O] -> [B, 2H, 2W, O].

    y[2i + k - 1] sums x[i] kernel[k]: a transposed convolution of stride 2 and padding 1, for 3 taps with output
    padding 1. Each 2 x 2 square of y sees 2 x 2 pixels of x, so it is a plain convolution whose outputs are squares; no
    product with the zeros that a dilated image would hold.
    """
    return (_doubled_by_three if kernel.shape[0] == 3 else _doubled_by_four)(x, kernel, policy)


def _doubled_by_three(x: jax.Array, kernel: jax.Array, policy: ConvPolicy) -> jax.Array:
    batch, height, width, _ = x.shape
    outputs = kernel.shape[-1]
    # Along an axis pixel a of x reaches pixel p of the square by tap 1 + p - 2a; a tap -1 of zeros makes four of three.
    taps = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(2, 2, 2, 2, *kernel.shape[2:])[::-1, :, ::-1]
    y = conv2d(x, _squares(taps), 1, policy, ((0, 1), (0, 1))).reshape(batch, height, width, 2, 2, outputs)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, outputs)


def _doubled_by_four(x: jax.Array, kernel: jax.Array, policy: ConvPolicy) -> jax.Array:
    batch, height, width, _ = x.shape
    outputs = kernel.shape[-1]
    # Pixel a of two reaches pixel p of the square by tap 3 - 2a - p; the squares' second pixels see one pixel further.
    taps = kernel[::-1, ::-1].reshape(2, 2, 2, 2, *kernel.shape[2:])
    y = conv2d(x, _squares(taps), 1, policy, around(1)).reshape(batch, height + 1, width + 1, 2, 2, outputs)
    y = jnp.stack([y[:, p : p + height, :, p] for p in range(2)], 2)
    y = jnp.stack([y[:, :, :, q : q + width, q] for q in range(2)], 4)
    return y.reshape(batch, 2 * height, 2 * width, outputs)


def _squares(taps: jax.Array) -> jax.Array:
    """A kernel [2, 2, C, 4 O] of taps [2 rows of x, 2 of the square, 2 columns of x, 2 of the square, C, O]."""
    return taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, taps.shape[4], -1)


def group_norm(x: jax.Array, groups: int, epsilon: float = 1e-5) -> jax.Array:
    """Each image's groups of channels to mean 0 and variance 1, x [B, H, W, C] (Wu and He 2018).

    Sums run over positions first and over a group's channels after: one pass over x each, no copy by group.
    """
    members, dtype = x.shape[-1] // groups, x.dtype
    x = x.astype(jnp.float32)

    def moment(values: jax.Array) -> jax.Array:
        by_group = values.mean((1, 2)).reshape(-1, groups, members).mean(-1)
        return jnp.repeat(by_group, members, axis=-1)[:, None, None, :]

    mean = moment(x)
    variance = jnp.maximum(moment(jnp.square(x)) - jnp.square(mean), 0.0)
    factor = jax.lax.rsqrt(variance + epsilon)
    return (x * factor - mean * factor).astype(dtype)


def instance_norm(x: jax.Array) -> jax.Array:
    """Each image's channels to mean 0 and variance 1, x [B, H, W, C] (Ulyanov et al. 2016), without scale and bias."""
    return group_norm(x, x.shape[-1])


def check_groups(field: str, widths: Sequence[int], norm: NormKind) -> None:
    """Raises UserError, naming the `field` of the widths, where channels cannot be parted into GroupNorm's groups."""
    if norm == "group" and any(width > GROUPS and width % GROUPS for width in widths):
        given = widths[0] if len(widths) == 1 else tuple(widths)
        raise UserError(f"{field}={given}: GroupNorm wants multiples of {GROUPS} (or network.norm=batch)")


class Norm(nnx.Module):
    """GroupNorm (default in federated nets), BatchNorm over examples of weight above 0, InstanceNorm, or none."""

    def __init__(self, features: int, kind: NormKind | ImageNorm, *, groups: int = GROUPS, rngs: nnx.Rngs) -> None:
        self.kind, self.groups = kind, min(groups, features)
        if kind == "group":
            self.scale = nnx.Param(jnp.ones(features, jnp.float32))
            self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        elif kind == "batch":
            self.batch = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array | None, train: bool) -> jax.Array:
        """x [B, H, W, C], weight [B] (None: all count) -> [B, H, W, C]."""
        if self.kind == "none":
            return x
        if self.kind == "instance":
            return instance_norm(x)
        if self.kind == "batch":
            mask = None if weight is None else (weight > 0).reshape(-1, 1, 1, 1)
            return self.batch(x, use_running_average=not train, mask=mask).astype(x.dtype)
        shape = (1, 1, 1, -1)
        return group_norm(x, self.groups) * self.scale[...].reshape(shape) + self.bias[...].reshape(shape)


class Conv(nnx.Module):
    """`conv2d` with its kernel (He initialisation by default) and, if asked for, a bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: Sequence[int] = (3, 3),
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        dilation: int = 1,
        bias: bool = True,
        init: nnx.Initializer = HE,
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (*window, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.stride, self.padding, self.dilation, self.policy = stride, padding, dilation, policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, inputs] -> [B, H', W', outputs]."""
        y = conv2d(x, self.kernel[...], self.stride, self.policy, self.padding, self.dilation)
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)


class ConvTranspose(nnx.Module):
    """`conv2d_transpose` with its kernel and, if asked for, a bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: Literal[3, 4] = 3,
        *,
        bias: bool = True,
        init: nnx.Initializer = HE,
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (side, side, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.policy = policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, inputs] -> [B, 2H, 2W, outputs]."""
        y = conv2d_transpose(x, self.kernel[...], self.policy)
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)
