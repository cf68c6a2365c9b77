"""The small convolutional classifier of federated imaging studies: convolution, norm, ReLU, pool, then dense layers."""

from collections.abc import Sequence

import jax
from flax import nnx

from fedjax_mri.nets.layers import Conv, ConvPolicy, Norm, NormKind, max_pool


class CNN(nnx.Module):
    """Stages that halve the image, then one hidden dense layer over what is left of it, and logits.

    The dense layer sees positions, so the size is fixed: `size` px square, of at least 2 ** len(widths).
    """

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 96),
        hidden: int = 64,
        norm: NormKind = "group",
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        inputs = (channels, *widths[:-1])
        self.convs = nnx.List(Conv(i, o, bias=norm == "none", policy=policy, rngs=rngs) for i, o in zip(inputs, widths))
        self.norms = nnx.List(Norm(width, norm, rngs=rngs) for width in widths)
        self.hidden = nnx.Linear((size >> len(widths)) ** 2 * widths[-1], hidden, rngs=rngs)
        self.logits = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, size, size, channels], weight [B] -> logits [B, classes]."""
        for conv, norm in zip(self.convs, self.norms):
            x = max_pool(nnx.relu(norm(conv(x), weight, train)))
        return self.logits(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))
