"""A convolution of few channels and the 2 x 2 max-pool behind it, as one convolution of four times the channels.

With 3 or 6 channels a product has few columns, and most of a vector register stays empty. Here each 2 x 2 square of the
image becomes one position with 4 C channels, and the convolution gives the four results of a square as 4 O outputs. It
multiplies by some zeros (5 x 5: 36 taps for 25), and the pool is a maximum of four groups of channels.
"""

import jax
import jax.numpy as jnp

from fedjax_mri.nets.conv.conv2d import ConvPolicy, conv2d
from fedjax_mri.nets.conv.pool import max_and_argmax_of_four


def conv_max_pool(x: jax.Array, kernel: jax.Array, policy: ConvPolicy) -> jax.Array:
    """Returns the 2 x 2 max-pool of the convolution without padding: x [B, H, W, C], kernel [h, w, C, O] of odd sides.

    H and W are even, so that the convolution's H' and W' are; the result is [B, H' / 2, W' / 2, O].
    """
    if any(size % 2 for size in x.shape[1:3]) or not all(side % 2 for side in kernel.shape[:2]):
        raise ValueError(f"image {x.shape[1:3]} with a window {kernel.shape[:2]}: sides must be even, and odd")
    return max_of_four(conv2d(folded_image(x), folded_kernel(kernel), 1, policy, 0))


def folded_image(x: jax.Array) -> jax.Array:
    """Returns x [B, H, W, C] as [B, H / 2, W / 2, 4 C]: channels by row and column of the square first."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(batch, height // 2, width // 2, 4 * channels)


def folded_kernel(kernel: jax.Array) -> jax.Array:
    """Returns the kernel [h, w, C, O] for folded images, [(h + 1) / 2, (w + 1) / 2, 4 C, 4 O]."""
    height, width, inputs, outputs = kernel.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2

    def moved(down: int, right: int) -> jax.Array:
        """Returns the kernel for the result at this row and column of a square."""
        pads = (down, 1 - down), (right, 1 - right), (0, 0), (0, 0)
        parts = jnp.pad(kernel, pads).reshape(rows, 2, columns, 2, inputs, outputs)
        return parts.transpose(0, 2, 1, 3, 4, 5).reshape(rows, columns, 4 * inputs, outputs)

    return jnp.concatenate([moved(down, right) for down in (0, 1) for right in (0, 1)], -1)


@jax.custom_vjp
def max_of_four(y: jax.Array) -> jax.Array:
    """Returns the largest of four groups of channels, [..., 4 O] -> [..., O]; the first of equals has the gradient."""
    return _max_and_argmax(y)[0]


def _max_and_argmax(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_and_argmax_of_four(*jnp.split(y, 4, -1))


def _spread(which: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    none = jnp.zeros((), gradient.dtype)
    return (jnp.concatenate([jnp.where(which == number, gradient, none) for number in range(4)], -1),)


max_of_four.defvjp(_max_and_argmax, _spread)
