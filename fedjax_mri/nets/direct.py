"""A stride-1 convolution whose gradients are forward convolutions too.

The compiler's forward convolution is fast on a CPU, also inside loops; the gradients it derives are not (a kernel's
gradient: 50 times slower than its product in a loop), and neither are the grouped convolutions that `vmap` over
kernels makes. Here the result and both gradients are each one ordinary forward convolution per client.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

Pads = tuple[tuple[int, int], tuple[int, int]]  # rows and columns: (before, after)
BROAD = 128  # channels, of input and output, see `by_kernel`
MANY, FEW = 256, 1024  # outputs, and positions of a batch, see `suits`
WIDE = 32  # outputs: with fewer the compiler's kernel is slower
TAPS = 27  # of a window and all its channels, see `by_taps`


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def direct(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """x [B, H, W, C] with zeros around it, kernel [h, w, C, O] -> [B, H', W', O]; each pad is below h or w."""
    return forward(x, kernel, pads)


def _forward(x: jax.Array, kernel: jax.Array, pads: Pads) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return forward(x, kernel, pads), (x, kernel)


def _backward(pads: Pads, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    left = opposite(pads, kernel.shape[:2])
    by_input = forward(gradient, kernel[::-1, ::-1].swapaxes(2, 3), left)
    return by_input, by_kernel(x, gradient, pads, left)


direct.defvjp(_forward, _backward)


def opposite(pads: Pads, window: tuple[int, ...]) -> Pads:
    """What `pads` leave of a full padding, window - 1 on each side."""
    rows, columns = ((side - 1 - before, side - 1 - after) for side, (before, after) in zip(window, pads))
    return rows, columns


def by_kernel(x: jax.Array, gradient: jax.Array, pads: Pads, left: Pads) -> jax.Array:
    """The gradient [h, w, C, O] by the kernel, which sums over examples and positions.

    Of many channels it is a few products. Of fewer it is a convolution in which x and the
    output's gradient can both play the kernel, unless it were the larger: of two of one size the one with fewer
    channels does, unless it is too narrow.
    """
    if min(x.shape[3], gradient.shape[3]) >= BROAD:
        return by_rows(x, gradient, pads)
    images, kernel = (3, 1, 2, 0), (1, 2, 0, 3)
    if not covers(x, gradient.shape[1:3]) or (
        covers(gradient, x.shape[1:3]) and WIDE <= x.shape[3] <= gradient.shape[3]
    ):
        turned = forward(gradient.transpose(images), x.transpose(kernel), left)
        return turned[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    return forward(x.transpose(images), gradient.transpose(kernel), pads).transpose(1, 2, 0, 3)


def by_rows(x: jax.Array, gradient: jax.Array, pads: Pads) -> jax.Array:
    """The same as a product for each row of the window, of what the row's taps see with the output's gradient."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = gradient.shape[1:3]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    taps = jnp.concatenate([x[:, :, j : j + width] for j in range(columns)], -1)
    flat, positions = gradient.reshape(-1, gradient.shape[3]), (((0,), (0,)), ((), ()))
    seen = (taps[:, i : i + height].reshape(len(flat), -1) for i in range(rows))
    found = jnp.stack([jax.lax.dot_general(flat, one, positions) for one in seen])  # [h, O, w * C]
    return found.reshape(rows, -1, columns, x.shape[3]).transpose(0, 2, 3, 1)


def suits(x: jax.Array, kernel: jax.Array, pads: Pads) -> bool:
    """Whether x [B, H, W, C] is worth convolving with kernel [h, w, C, O] in this way.

    The compiler's fast kernel takes no image smaller than the window: 3 x 3 on 2 x 2 pixels took 100 times a product's
    time. And for many outputs at few positions a product over windows is faster, for cutting those is little beside it.
    """
    window = kernel.shape[:2]
    result = [size + sum(pad) - side + 1 for size, side, pad in zip(x.shape[1:3], window, pads)]
    small = not covers(x, window) or any(size < side for size, side in zip(result, window))
    product = kernel.shape[3] >= MANY and x.shape[0] * result[0] * result[1] < FEW
    return not small and window != (1, 1) and not product


def covers(x: jax.Array, window: tuple[int, ...]) -> bool:
    """Whether x [B, H, W, C] is at least as large as the window."""
    return x.shape[1] >= window[0] and x.shape[2] >= window[1]


def forward(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """The compiler's convolution, but of few taps and outputs; under `vmap` over kernels, one after another."""
    if kernel.shape[3] < WIDE and kernel[..., 0].size <= TAPS:
        return by_taps(x, kernel, pads)

    @jax.custom_batching.custom_vmap
    def one(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout, bare = ("NHWC", "HWIO", "NHWC"), not any(map(sum, pads))
        # Without any padding the compiler takes a kernel that is up to five times slower: a row too many is cheaper.
        rows = (0, 1) if bare else pads[0]
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), (rows, pads[1]), dimension_numbers=layout)
        return y[:, :-1] if bare else y

    @one.def_vmap
    def each(count: int, batched: list[bool], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        if not batched[1]:
            together = forward(x.reshape(-1, *x.shape[2:]), kernel, pads)
            return together.reshape(*x.shape[:2], *together.shape[1:]), True
        pick = [(x[i] if batched[0] else x, kernel[i]) for i in range(count)]
        return jnp.stack([forward(*pair, pads) for pair in pick]), True

    return one(x, kernel)


def by_taps(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """A sum over the taps and channels of a window in one float32 loop: for a first layer up to 15 times as fast."""
    wide = jnp.pad(x, ((0, 0), *pads, (0, 0))).astype(jnp.float32)
    height, width = wide.shape[1] - kernel.shape[0] + 1, wide.shape[2] - kernel.shape[1] + 1

    def seen(i: int, j: int, channel: int) -> jax.Array:
        return wide[:, i : i + height, j : j + width, channel, None] * kernel[i, j, channel].reshape(1, 1, 1, -1)

    kernel = kernel.astype(jnp.float32)
    return sum((seen(*tap) for tap in np.ndindex(kernel.shape[:3])), jnp.float32(0)).astype(x.dtype)
