"""Times the layers of W1 by each way to compute a convolution, and the passes of W6's convolutions, on one core.

    python scripts/layers.py
    python scripts/layers.py --resnet18  # forward, gradient by input and by kernel of each convolution of W6
    python scripts/layers.py --thresholds  # CPU time on both sides of each threshold by which nets/conv/ chooses

Layers run in a loop, as in a client's training. Prints a line of JSON for each. `scripts/peers/pytorch/layers.py`
measures the same layers in oneDNN.
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
from workloads import RESNET18, ConvLayer

sys.path.append(str(pathlib.Path(__file__).parents[1]))

from fedjax_mri.core import programs
from fedjax_mri.nets.conv import direct
from fedjax_mri.nets.conv.conv2d import ConvPolicy, conv2d
from fedjax_mri.nets.conv.gemm import few_outputs, gemm, gemm_input_gradient, gemm_kernel_gradient
from fedjax_mri.nets.conv.pool import max_pool
from fedjax_mri.nets.conv.windows import Pads

BATCH, LOOP, REPEATS = 16, 20, 15
PADS = (1, 1), (1, 1)  # of a 3 x 3 window
Layer = Callable[[jax.Array, jax.Array], jax.Array]  # (x, kernel) -> y
Clock = Callable[[], float]
Way = Callable[[jax.Array, jax.Array, Pads], jax.Array]
Ways = dict[str, tuple[Layer, jax.Array, jax.Array]]  # name -> a layer and its arguments


def of_workload() -> None:
    policies: tuple[ConvPolicy, ...] = ("direct", "gemm", "xla")
    for policy in policies:
        for name, layer, x, kernel, flop in layers(policy):
            ms = 1e3 * seconds(layer, x, kernel, name != "conv1")
            print(json.dumps({"layer": name, "policy": policy, "ms": ms, "gflop_per_s": flop / ms / 1e6}), flush=True)


def of_resnet18() -> None:
    for layer in RESNET18:
        ms = {name: 1e3 * seconds(*way, layer.inputs > 1) for name, way in resnet_passes(layer).items()}
        rates = {name: layer.flop(BATCH) / took / 1e6 for name, took in ms.items()}
        print(json.dumps({"layer": str(layer), "count": layer.count, "ms": ms, "gflop_per_s": rates}), flush=True)


def of_thresholds() -> None:
    for threshold, shape, ways in choices():
        ms = {name: 1e3 * seconds(*layer, True, time.process_time, 3, 5) for name, layer in ways.items()}
        print(json.dumps({"threshold": threshold, "layer": shape, "ms": ms}), flush=True)


def layers(policy: ConvPolicy) -> Iterator[tuple[str, Layer, jax.Array, jax.Array, float]]:
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


def resnet_passes(layer: ConvLayer) -> Ways:
    """The three passes of a convolution as `direct` computes them; images of the first layer need no gradient."""

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv2d(x, kernel, layer.stride, "direct", layer.window // 2)

    x, kernel = (
        noise(layer.side, layer.side, layer.inputs),
        noise(layer.window, layer.window, layer.inputs * layer.outputs),
    )
    kernel = kernel[0].reshape(layer.window, layer.window, layer.inputs, layer.outputs)
    y = noise(*jax.eval_shape(conv, x, kernel).shape[1:])
    ways: Ways = {
        "forward": (alone(conv), x, kernel),
        "by input": (alone(lambda y, kernel: jax.vjp(lambda x: conv(x, kernel), x)[1](y)[0]), y, kernel),
        "by kernel": (alone(lambda x, y: jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](y)[0]), x, y),
    }
    return ways if layer.inputs > 1 else {name: way for name, way in ways.items() if name != "by input"}


def choices() -> Iterator[tuple[str, str, Ways]]:
    """A threshold of nets/conv/, the shape of a 3 x 3 layer, and the ways to compute it between which it decides."""
    for outputs in (32, 16, 8, 1):
        yield "FEWER_OUTPUTS", *passes(32, 64, outputs, few_outputs=few_outputs, gemm=one_product, direct=plain)
    for channels, side in ((128, 4), (256, 4), (512, 4), (256, 8), (512, 8), (256, 16)):
        yield (
            "MANY_OUTPUTS, FEW_POSITIONS",
            *forward(side, channels, channels, gemm=one_product, compiled=direct.compiled),
        )
    for channels, side in ((128, 4), (256, 4), (512, 4), (256, 8)):
        yield "FEW_POSITIONS_BY_INPUT", *forward(side, channels, channels, gemm=folded, compiled=turned)
    for channels, side in ((64, 16), (64, 32), (128, 16), (128, 32)):
        ways = {"product": direct.kernel_gradient_as_product, "compiled": by_output}
        yield "LARGE_KERNEL, BROAD_CHANNELS", *gradients(side, channels, channels, **ways)
    for inputs, outputs in ((1, 32), (3, 32), (8, 32)):
        yield "FEW_TAPS_BY_KERNEL", *gradients(32, inputs, outputs, product=by_windows, compiled=by_output)
    for inputs, outputs in ((1, 16), (3, 16), (8, 16), (1, 32), (3, 32)):
        yield (
            "FAST_OUTPUTS, FEW_TAPS",
            *forward(32, inputs, outputs, taps=direct.sum_over_taps, compiled=direct.compiled),
        )


def plain(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    return direct.direct(x, kernel, 1, pads, 1)


def folded(gradient: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    return gemm_input_gradient(gradient, kernel, gradient, 1, pads, 1)


def turned(gradient: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    return direct.compiled(gradient, kernel[::-1, ::-1].swapaxes(2, 3), pads)


def by_output(x: jax.Array, gradient: jax.Array, pads: Pads) -> jax.Array:
    return direct.kernel_gradient_output_as_kernel(x, gradient, (3, 3), 1, pads, 1)


def by_windows(x: jax.Array, gradient: jax.Array, pads: Pads) -> jax.Array:
    return gemm_kernel_gradient(x, gradient, (3, 3), 1, pads, 1)


def one_product(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    return gemm(x, kernel, 1, pads, 1)


def at_pads(way: Way) -> Layer:
    return lambda x, kernel: way(x, kernel, PADS)


def passes(side: int, inputs: int, outputs: int, **ways: Way) -> tuple[str, Ways]:
    """Both passes of a layer, computed in each way."""
    x, kernel = noise(side, side, inputs), noise(3, 3, inputs, outputs)[0]
    layers = {name: (at_pads(way), x, kernel) for name, way in ways.items()}
    return f"both passes, {side} px, {inputs} to {outputs}", layers


def forward(side: int, inputs: int, outputs: int, **ways: Way) -> tuple[str, Ways]:
    """The forward pass of a layer, computed in each way."""
    layers = {
        name: (alone(way), x, kernel) for name, (way, x, kernel) in passes(side, inputs, outputs, **ways)[1].items()
    }
    return f"forward, {side} px, {inputs} to {outputs}", layers


def gradients(side: int, inputs: int, outputs: int, **ways: Way) -> tuple[str, Ways]:
    """The gradient of a layer by its kernel, computed in each way."""
    x, y = noise(side, side, inputs), noise(side, side, outputs)
    layers = {name: (alone(at_pads(way)), x, y) for name, way in ways.items()}
    return f"gradient by kernel, {side} px, {inputs} to {outputs}", layers


def alone(layer: Layer) -> Layer:
    """`layer` with one value of its result in place of its gradients, so that nothing but the result is computed."""

    def backward(kept: tuple[jax.Array, jax.Array, jax.Array], _: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel, y = kept
        value = jax.lax.optimization_barrier(y).reshape(-1)[0]
        return jnp.full_like(x, value), jnp.full_like(kernel, value)

    def run(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        y = layer(x, kernel)
        return y, (x, kernel, y)

    result = jax.custom_vjp(layer)
    result.defvjp(run, backward)
    return result


def noise(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (BATCH, *shape))


def seconds(
    layer: Layer,
    x: jax.Array,
    kernel: jax.Array,
    by_input: bool,
    clock: Clock = time.perf_counter,
    loop: int = LOOP,
    repeats: int = REPEATS,
) -> float:
    """Of one forward and backward pass, the median over `repeats` loops of `loop` passes that feed each other."""

    def one(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, backward = jax.vjp(layer, *carry)
        dx, dkernel = backward(y)
        x, kernel = carry
        return (x + 1e-9 * dx if by_input else x), kernel + 1e-9 * dkernel

    looped = jax.jit(lambda x, kernel: jax.lax.fori_loop(0, loop, one, (x, kernel)))
    program = looped.lower(x, kernel).compile(programs.xla_options())
    took = []
    for _ in range(repeats + 2):
        start = clock()
        jax.block_until_ready(program(x, kernel))
        took.append((clock() - start) / loop)
    return float(np.median(took[2:]))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    jax.config.update("jax_num_cpu_devices", 1)
    of_resnet18() if "--resnet18" in sys.argv else of_thresholds() if "--thresholds" in sys.argv else of_workload()
