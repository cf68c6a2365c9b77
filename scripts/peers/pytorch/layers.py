"""Forward and backward pass of each layer of the CNN, or of ResNet-18's convolutions with --resnet18, in oneDNN.

The batch has 16 images. Prints a line of JSON for each layer.
"""

import argparse
import json
import pathlib
import sys
import time
from statistics import median

import torch
from torch import nn

sys.path.append(str(pathlib.Path(__file__).parents[2]))

from workloads import RESNET18, ConvLayer

BATCH = 16


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--repeats", type=int, default=200)
    words.add_argument("--layout", choices=("channels_last", "contiguous_format"), default="channels_last")
    words.add_argument("--resnet18", action="store_true", help="each pass of the convolutions of W6")
    chosen = words.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.resnet18:
        return of_resnet18(getattr(torch, chosen.layout), chosen.repeats)
    for name, layer, shape, flop in layers():
        forward, backward = measure(layer, shape, getattr(torch, chosen.layout), name != "conv1", chosen.repeats)
        gflops = flop / (forward + backward) / 1e6
        line = {"layer": name, "ms": forward + backward, "forward_ms": forward, "backward_ms": backward}
        print(json.dumps({**line, "gflop_per_s": gflops, "layout": chosen.layout, "torch": torch.__version__}))


def of_resnet18(layout: torch.memory_format, repeats: int) -> None:
    for layer in RESNET18:
        ms = {name: milliseconds(work, repeats) for name, work in resnet_passes(layer, layout).items()}
        rates = {name: layer.flop(BATCH) / took / 1e6 for name, took in ms.items()}
        print(json.dumps({"layer": str(layer), "count": layer.count, "ms": ms, "gflop_per_s": rates}), flush=True)


def resnet_passes(layer: ConvLayer, layout: torch.memory_format) -> dict:
    """The three passes of a convolution; images of the first layer need no gradient."""
    x = torch.randn(BATCH, layer.inputs, layer.side, layer.side).to(memory_format=layout)
    kernel = torch.randn(layer.outputs, layer.inputs, layer.window, layer.window).to(memory_format=layout)
    strides, pads = [layer.stride] * 2, [layer.window // 2] * 2
    upstream = torch.randn_like(nn.functional.conv2d(x, kernel, None, strides, pads))

    def gradient(by_input: bool) -> None:
        asked = [by_input, not by_input, False]
        torch.ops.aten.convolution_backward(upstream, x, kernel, None, strides, pads, [1, 1], False, [0, 0], 1, asked)

    ways = {"forward": lambda: nn.functional.conv2d(x, kernel, None, strides, pads)}
    ways |= {"by input": lambda: gradient(True)} if layer.inputs > 1 else {}
    return ways | {"by kernel": lambda: gradient(False)}


def milliseconds(work, repeats: int) -> float:
    """The median over `repeats` calls after ten to warm up."""
    took = []
    for _ in range(10 + repeats):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return 1e3 * median(took[10:])


def layers():
    """Name, module, input shape [B, C, H, W] and floating-point operations of both passes; the images of conv1 need
    no gradient. Element-wise layers count none."""
    after = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    product = 2 * BATCH * 9
    yield "conv1", nn.Conv2d(1, 32, 3, padding=1), (BATCH, 1, 32, 32), 2 * product * 32 * 32 * 1 * 32
    yield "relu and pool 1", after, (BATCH, 32, 32, 32), 0
    yield "conv2", nn.Conv2d(32, 64, 3, padding=1), (BATCH, 32, 16, 16), 3 * product * 16 * 16 * 32 * 64
    yield "relu and pool 2", after, (BATCH, 64, 16, 16), 0
    yield "dense", nn.Sequential(nn.Flatten(), nn.Linear(4_096, 10)), (BATCH, 64, 8, 8), 3 * 2 * BATCH * 4_096 * 10


def measure(layer: nn.Module, shape, layout: torch.memory_format, gradient: bool, repeats: int) -> tuple[float, float]:
    """Milliseconds of the forward and of the backward pass, medians after ten passes to warm up."""
    layer = layer.to(memory_format=layout)
    x = torch.randn(shape).to(memory_format=layout).requires_grad_(gradient)
    upstream = torch.randn_like(layer(x))
    passes = [once(layer, x, upstream) for _ in range(10 + repeats)][10:]
    return tuple(1e3 * median(part) for part in zip(*passes))


def once(layer: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> tuple[float, float]:
    """Seconds of both passes."""
    layer.zero_grad()
    x.grad = None
    start = time.perf_counter()
    y = layer(x)
    middle = time.perf_counter()
    y.backward(upstream)
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    main()
