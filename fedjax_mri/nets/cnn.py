"""The small convolutional classifier of federated imaging studies: convolution, norm, ReLU, pool, then dense layers."""

from collections.abc import Sequence

import jax
from flax import nnx

from fedjax_mri.nets.layers import Conv, ConvPolicy, Norm, NormKind, max_pool


class CNN(nnx.Module):
    """Stages that halve the image, then logits from what is left of it, with a hidden dense layer between if asked for.

    Without the hidden layer every feature has passed a norm, and no unit can die in the first rounds, when clients of
    skewed labels pull far apart. The dense layer sees positions, so the size is fixed: `size` px square, of at least
    2 ** len(widths).
    """

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 96),
        hidden: int = 0,
        norm: NormKind = "group",
        policy: ConvPolicy = "gemm",
        rngs: nnx.Rngs,
    ) -> None:
        inputs = (channels, *widths[:-1])
        self.convs = nnx.List(Conv(i, o, bias=norm == "none", policy=policy, rngs=rngs) for i, o in zip(inputs, widths))
        self.norms = nnx.List(Norm(width, norm, rngs=rngs) for width in widths)
        features = (size >> len(widths)) ** 2 * widths[-1]
        self.hidden = nnx.Linear(features, hidden, rngs=rngs) if hidden else None
        self.logits = nnx.Linear(hidden or features, classes, rngs=rngs)

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool) -> jax.Array:
        """x [B, size, size, channels], weight [B] -> logits [B, classes]."""
        for conv, norm in zip(self.convs, self.norms):
            x = max_pool(nnx.relu(norm(conv(x), weight, train)))
        x = x.reshape(x.shape[0], -1)
        return self.logits(x if self.hidden is None else nnx.relu(self.hidden(x)))
