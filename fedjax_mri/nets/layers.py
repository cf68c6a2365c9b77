"""The layers every network is made of: one convolution, computed in one of three ways; one norm; one pool."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.nets.direct import direct

ConvPolicy = Literal["xla", "gemm", "direct"]
NormKind = Literal["group", "batch", "none"]


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, policy: ConvPolicy = "gemm") -> jax.Array:
    """Convolution with "SAME" padding: x [B, H, W, C], kernel [h, w, C, O] -> [B, ceil(H/s), ceil(W/s), O].

    All policies agree to rounding. `xla` is the compiler's convolution and its gradients. `direct` is the compiler's
    forward convolution for the result and both gradients, one client after another (stride 1; `gemm` for others).
    `gemm` is one matrix product over shifted slices, which stays a batched product under `vmap` over kernels.
    """
    if policy == "xla":
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)
    if policy == "direct" and stride == 1 and kernel.shape[:2] != (1, 1):
        pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), "SAME")
        return direct(x, kernel, (tuple(pads[0]), tuple(pads[1])))
    return _gemm(x, kernel, stride)


def patches(x: jax.Array, window: tuple[int, int], stride: int) -> jax.Array:
    """Windows of a "SAME" convolution, x [B, H, W, C] -> [B, H', W', h*w*C], row-major over the window."""
    if window == (1, 1):
        return x[:, ::stride, ::stride]
    height, width = (-(-size // stride) for size in x.shape[1:3])
    pads = jax.lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    offsets = [(i, j) for i in range(window[0]) for j in range(window[1])]
    return jnp.concatenate([x[:, i : i + rows : stride, j : j + columns : stride] for i, j in offsets], -1)


def _gemm(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    # Windows are cheap to cut again and nine times the size of x, so the backward pass recomputes them.
    @jax.checkpoint
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        windows = patches(x, (kernel.shape[0], kernel.shape[1]), stride)
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


def group_norm(x: jax.Array, groups: int, epsilon: float = 1e-5) -> jax.Array:
    """Each image's groups of channels to mean 0 and variance 1, x [B, H, W, C] (Wu and He 2018).

    Sums run over positions first and over a group's channels after: one pass over x each, no copy by group.
    """
    members = x.shape[-1] // groups

    def moment(values: jax.Array) -> jax.Array:
        by_group = values.mean((1, 2)).reshape(-1, groups, members).mean(-1)
        return jnp.repeat(by_group, members, axis=-1)[:, None, None, :]

    mean = moment(x)
    variance = jnp.maximum(moment(jnp.square(x)) - jnp.square(mean), 0.0)
    factor = jax.lax.rsqrt(variance + epsilon)
    return x * factor - mean * factor


class Norm(nnx.Module):
    """GroupNorm (default in federated nets), BatchNorm over examples of weight above 0, or none."""

    def __init__(self, features: int, kind: NormKind, *, groups: int = 8, rngs: nnx.Rngs) -> None:
        self.kind, self.groups = kind, min(groups, features)
        if kind == "group":
            self.scale = nnx.Param(jnp.ones(features, jnp.float32))
            self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        elif kind == "batch":
            self.batch = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, C], weight [B] -> [B, H, W, C]."""
        if self.kind == "none":
            return x
        if self.kind == "batch":
            return self.batch(x, use_running_average=not train, mask=(weight > 0).reshape(-1, 1, 1, 1))
        shape = (1, 1, 1, -1)
        return group_norm(x, self.groups) * self.scale[...].reshape(shape) + self.bias[...].reshape(shape)


class Conv(nnx.Module):
    """`conv2d` with its kernel (He initialisation) and, if asked for, a bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        window: Sequence[int] = (3, 3),
        *,
        stride: int = 1,
        bias: bool = True,
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        shape = (*window, inputs, outputs)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.stride, self.policy = stride, policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, inputs] -> [B, H', W', outputs]."""
        y = conv2d(x, self.kernel[...], self.stride, self.policy)
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)
