"""The layers every network is made of: one convolution, computed in one of three ways; one norm; pools."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.errors import UserError
from fedjax_mri.nets.direct import Pads, direct, suits

ConvPolicy = Literal["xla", "gemm", "direct"]
NormKind = Literal["group", "batch", "none"]
Padding = Literal["SAME"] | Pads  # zeros before and after, of rows and of columns

GROUPS = 8  # of GroupNorm; a layer of fewer channels has a group for each
HE = nnx.initializers.he_normal()


def around(width: int) -> Padding:
    """`width` zeros on each side: what other libraries call padding=width. At a stride "SAME" is something else."""
    return (width, width), (width, width)


def conv2d(
    x: jax.Array, kernel: jax.Array, stride: int = 1, policy: ConvPolicy = "gemm", padding: Padding = "SAME"
) -> jax.Array:
    """Convolution: x [B, H, W, C], kernel [h, w, C, O] -> [B, H', W', O]; for "SAME" H' is ceil(H/stride).

    All policies agree to rounding. `xla` is the compiler's convolution and its gradients. `direct` is the compiler's
    forward convolution for the result and both gradients, one client after another (at stride 1, where it `suits`;
    else `gemm`).
    `gemm` is one matrix product over shifted slices, which stays a batched product under `vmap` over kernels.
    """
    if policy == "xla":
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)
    if stride == 1 and 4 * kernel.shape[3] <= kernel.shape[2]:
        return _products(x, kernel, padding)
    pads = _pads(x, kernel.shape[:2], stride, padding)
    if policy == "direct" and stride == 1 and suits(x, kernel, pads):
        return direct(x, kernel, pads)
    return _gemm(x, kernel, stride, padding)


def patches(x: jax.Array, window: tuple[int, int], stride: int, padding: Padding = "SAME") -> jax.Array:
    """Windows of a convolution, x [B, H, W, C] -> [B, H', W', h*w*C], row-major over the window."""
    x = _padded(x, window, stride, padding)
    for axis in (2, 1):  # one axis after the other: h + w slices instead of h*w
        side = window[axis - 1]
        length = (x.shape[axis] - side) // stride * stride + 1
        shifted = [jax.lax.slice_in_dim(x, i, i + length, stride, axis) for i in range(side)]
        x = jnp.concatenate(shifted, -1)
    return x


def _padded(x: jax.Array, window: tuple[int, ...], stride: int, padding: Padding) -> jax.Array:
    return jnp.pad(x, ((0, 0), *_pads(x, window, stride, padding), (0, 0)))


def _pads(x: jax.Array, window: tuple[int, ...], stride: int, padding: Padding) -> Pads:
    if padding != "SAME":
        return padding
    (top, bottom), (left, right) = jax.lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), padding)
    return (top, bottom), (left, right)


def _products(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    # With few outputs it is their products that are small, not the windows: multiply, then shift and add.
    x = _padded(x, kernel.shape[:2], 1, padding)
    y = jnp.einsum("bhwc,ijco->bhwijo", x, kernel)
    rows, columns = (size - side + 1 for size, side in zip(x.shape[1:3], kernel.shape))
    y = functools.reduce(jnp.add, [y[:, i : i + rows, :, i] for i in range(kernel.shape[0])])
    return functools.reduce(jnp.add, [y[:, :, j : j + columns, j] for j in range(kernel.shape[1])])


def _gemm(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    # Windows are cheap to cut again and nine times the size of x, so the backward pass recomputes them.
    @jax.checkpoint
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        windows = patches(x, (kernel.shape[0], kernel.shape[1]), stride, padding)
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
    """Doubles the image: x [B, H, W, C], kernel [3, 3, C, O] -> [B, 2H, 2W, O].

    y[2i + k - 1] sums x[i] kernel[k]: a transposed convolution of stride 2, padding 1 and output padding 1. Each 2 x 2
    square of y sees 2 x 2 pixels of x, so it is a plain convolution whose outputs are squares; no product with the
    zeros that a dilated image would hold.
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[-1]
    # Along an axis pixel a of x reaches pixel p of the square by tap 1 + p - 2a; a tap -1 of zeros makes four of three.
    taps = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(2, 2, 2, 2, inputs, outputs)[::-1, :, ::-1]
    squares = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, 4 * outputs)
    y = conv2d(x, squares, 1, policy, ((0, 1), (0, 1))).reshape(batch, height, width, 2, 2, outputs)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, outputs)


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
    """GroupNorm (default in federated nets), BatchNorm over examples of weight above 0, or none."""

    def __init__(self, features: int, kind: NormKind, *, groups: int = GROUPS, rngs: nnx.Rngs) -> None:
        self.kind, self.groups = kind, min(groups, features)
        if kind == "group":
            self.scale = nnx.Param(jnp.ones(features, jnp.float32))
            self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        elif kind == "batch":
            self.batch = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, C], weight [B] -> [B, H, W, C]."""
        if self.kind == "none":
            return x
        if self.kind == "batch":
            mask = (weight > 0).reshape(-1, 1, 1, 1)
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
        bias: bool = True,
        init: nnx.Initializer = HE,
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (*window, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.stride, self.padding, self.policy = stride, padding, policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, inputs] -> [B, H', W', outputs]."""
        y = conv2d(x, self.kernel[...], self.stride, self.policy, self.padding)
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)


class ConvTranspose(nnx.Module):
    """`conv2d_transpose` with its kernel and a bias."""

    def __init__(
        self, inputs: int, outputs: int, *, init: nnx.Initializer = HE, policy: ConvPolicy = "gemm", rngs: nnx.Rngs
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.policy = policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, inputs] -> [B, 2H, 2W, outputs]."""
        return conv2d_transpose(x, self.kernel[...], self.policy) + self.bias[...].reshape(1, 1, 1, -1)
