"""LeNet as in PyTorch's CIFAR-10 tutorial, the network of BlazeFL's benchmark, made of this project's layers."""

from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.folded import conv_max_pool
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers


@dataclass(frozen=True)
class LeNetSettings:
    """LeCun et al. 1998 with ReLU and max-pools; it has no settings."""

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [H, W, C]."""
        return functional(lambda layers: LeNet(image, classes, layers), compute)


class LeNet(nnx.Module):
    """Two 5 x 5 convolutions without padding, each with ReLU and a 2 x 2 max-pool, then three dense layers."""

    def __init__(self, image: tuple[int, ...], classes: int, layers: Layers) -> None:
        height, width = (((side - 4) // 2 - 4) // 2 for side in image[:2])
        self.conv1, self.conv2 = layers.conv(image[2], 6, 5, padding=0), layers.conv(6, 16, 5, padding=0)
        self.dense1, self.dense2 = layers.linear(height * width * 16, 120), layers.linear(120, 84)
        self.dense3 = layers.linear(84, classes)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, H, W, C] -> logits [B, classes]."""
        for conv in (self.conv1, self.conv2):  # bias and ReLU commute with the pool
            assert conv.bias is not None
            x = nnx.relu(conv_max_pool(x, conv.kernel[...], conv.policy) + conv.bias[...].reshape(1, 1, 1, -1))
        x = x.reshape(x.shape[0], -1)
        return self.dense3(nnx.relu(self.dense2(nnx.relu(self.dense1(x)))))
