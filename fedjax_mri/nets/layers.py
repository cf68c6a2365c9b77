"""`Layers` makes the layers of a network: what they have in common is said once, not in each layer."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.nets.conv.conv2d import ConvPolicy, conv2d
from fedjax_mri.nets.conv.depthwise import depthwise
from fedjax_mri.nets.conv.transposed import conv2d_transpose
from fedjax_mri.nets.conv.windows import Padding
from fedjax_mri.nets.norm import GROUPS, ImageNorm, Norm, NormKind

HE = nnx.initializers.he_normal()
LECUN = nnx.initializers.lecun_normal()


class Layers(NamedTuple):
    """The maker of one network's layers; `_replace` gives one that differs, as in its norm."""

    rngs: nnx.Rngs  # draws initial parameters, in the order in which layers are made
    policy: ConvPolicy  # how convolutions are computed
    norm_kind: NormKind | ImageNorm = "group"
    init: nnx.Initializer = HE  # of convolutions' kernels

    def conv(
        self,
        inputs: int,
        outputs: int,
        side: int = 3,
        stride: int = 1,
        *,
        padding: Padding = "SAME",
        dilation: int = 1,
        bias: bool = True,
    ) -> "Conv":
        """Returns a convolution with a window of side x side pixels."""
        kernel = self.kernel(side, side, inputs, outputs)
        return Conv(kernel, _zeros(outputs, bias), stride, padding, dilation, self.policy)

    def conv_norm(self, inputs: int, outputs: int, side: int, stride: int = 1, dilation: int = 1) -> "ConvNorm":
        """Returns a convolution padded on each side by half its window, and its norm.

        It has a bias where there is no norm.
        """
        padding, bias = dilation * (side // 2), self.norm_kind == "none"
        conv = self.conv(inputs, outputs, side, stride, padding=padding, dilation=dilation, bias=bias)
        return ConvNorm(conv, self.norm(outputs))

    def conv_transpose(
        self, inputs: int, outputs: int, side: Literal[3, 4] = 3, *, bias: bool = True
    ) -> "ConvTranspose":
        """Returns a transposed convolution that doubles the image."""
        return ConvTranspose(self.kernel(side, side, inputs, outputs), _zeros(outputs, bias), self.policy)

    def depthwise(self, features: int, side: int, stride: int = 1, *, padding: Padding = "SAME") -> "Depthwise":
        """Returns a depthwise convolution without a bias."""
        return Depthwise(self.kernel(side, side, features), stride, padding, self.policy)

    def norm(self, features: int, groups: int = GROUPS) -> Norm:
        """Returns the network's norm; `groups` are GroupNorm's."""
        return Norm(features, self.norm_kind, groups=groups, rngs=self.rngs)

    def linear(self, inputs: int, outputs: int, *, bias: bool = True, init: nnx.Initializer = LECUN) -> nnx.Linear:
        """Returns a dense layer."""
        return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, rngs=self.rngs)

    def kernel(self, *shape: int) -> jax.Array:
        """Returns a kernel of that shape, drawn by `init`."""
        return self.init(self.rngs.params(), shape, jnp.float32)


def _zeros(outputs: int, bias: bool) -> jax.Array | None:
    return jnp.zeros(outputs, jnp.float32) if bias else None


class Conv(nnx.Module):
    """`conv2d` with its kernel [h, w, inputs, outputs] and its bias [outputs], if it has one."""

    def __init__(
        self,
        kernel: jax.Array,
        bias: jax.Array | None,
        stride: int,
        padding: Padding,
        dilation: int,
        policy: ConvPolicy,
    ) -> None:
        self.kernel, self.bias = nnx.Param(kernel), None if bias is None else nnx.Param(bias)
        self.stride, self.padding, self.dilation, self.policy = stride, padding, dilation, policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, inputs] to [B, H', W', outputs]."""
        y = conv2d(x, self.kernel[...], self.stride, self.policy, self.padding, self.dilation)
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)


class ConvTranspose(nnx.Module):
    """`conv2d_transpose` with its kernel [h, w, inputs, outputs] and its bias [outputs], if it has one."""

    def __init__(self, kernel: jax.Array, bias: jax.Array | None, policy: ConvPolicy) -> None:
        self.kernel, self.bias = nnx.Param(kernel), None if bias is None else nnx.Param(bias)
        self.policy = policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, inputs] to [B, 2H, 2W, outputs]."""
        y = conv2d_transpose(x, self.kernel[...], self.policy)
        return y if self.bias is None else y + self.bias[...].reshape(1, 1, 1, -1)


class Depthwise(nnx.Module):
    """`depthwise` with its kernel [h, w, features]."""

    def __init__(self, kernel: jax.Array, stride: int, padding: Padding, policy: ConvPolicy) -> None:
        self.kernel = nnx.Param(kernel)
        self.stride, self.padding, self.policy = stride, padding, policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, H, W, features] to [B, H', W', features]."""
        return depthwise(x, self.kernel[...], self.stride, self.policy, self.padding)


class ConvNorm(nnx.Module):
    """A convolution and its norm."""

    def __init__(self, conv: Conv, norm: Norm) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, x: jax.Array, present: jax.Array | None, train: bool) -> jax.Array:
        """Maps x [B, H, W, inputs] with present [B] to [B, H', W', outputs]."""
        return self.norm(self.conv(x), present, train)
