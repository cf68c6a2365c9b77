"""Forward and backward pass of the layers of workload W1 under each convolution policy, inside a loop as clients run
them, on one core: a line of JSON for each. `scripts/peers/pytorch/layers.py` measures the same layers in oneDNN.

    python scripts/layers.py
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1]))

from fedjax_mri.core import programs
from fedjax_mri.nets.layers import conv2d, max_pool

BATCH, LOOP, REPEATS = 16, 20, 15
Layer = Callable[[jax.Array, jax.Array], jax.Array]  # (x, kernel) -> y


def main() -> None:
    for policy in ("direct", "gemm", "xla"):
        for name, layer, x, kernel, flop in layers(policy):
            ms = 1e3 * seconds(layer, x, kernel, name != "conv1")
            print(json.dumps({"layer": name, "policy": policy, "ms": ms, "gflop_per_s": flop / ms / 1e6}), flush=True)


def layers(policy: str) -> Iterator[tuple[str, Layer, jax.Array, jax.Array, float]]:
    """Name, layer, input [B, H, W, C], kernel and floating-point operations of both passes, as its peer counts them."""

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv2d(x, kernel, 1, policy)

    def after(x: jax.Array, _: jax.Array) -> jax.Array:
        return max_pool(jax.nn.relu(x))

    product, none = 2 * BATCH * 9, jnp.zeros(1)
    yield "conv1", conv, noise(32, 32, 1), noise(3, 3, 1, 32)[0], 2 * product * 32 * 32 * 32
    yield "relu and pool 1", after, noise(32, 32, 32), none, 0
    yield "conv2", conv, noise(16, 16, 32), noise(3, 3, 32, 64)[0], 3 * product * 16 * 16 * 32 * 64
    yield "relu and pool 2", after, noise(16, 16, 64), none, 0


def noise(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (BATCH, *shape))


def seconds(layer: Layer, x: jax.Array, kernel: jax.Array, by_input: bool) -> float:
    """Of one forward and backward pass, the median of REPEATS loops of LOOP passes that feed each other."""

    def one(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, backward = jax.vjp(layer, *carry)
        dx, dkernel = backward(y)
        x, kernel = carry
        return (x + 1e-9 * dx if by_input else x), kernel + 1e-9 * dkernel

    looped = jax.jit(lambda x, kernel: jax.lax.fori_loop(0, LOOP, one, (x, kernel)))
    program = looped.lower(x, kernel).compile(programs.options())
    took = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        jax.block_until_ready(program(x, kernel))
        took.append((time.perf_counter() - start) / LOOP)
    return float(np.median(took[2:]))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    jax.config.update("jax_num_cpu_devices", 1)
    main()
