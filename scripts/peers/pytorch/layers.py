"""Forward and backward pass of each layer of the CNN in oneDNN, for a batch of 16: a line of JSON for each."""

import argparse
import json
import time
from statistics import median

import torch
from torch import nn

BATCH = 16


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--repeats", type=int, default=200)
    words.add_argument("--layout", choices=("channels_last", "contiguous_format"), default="channels_last")
    chosen = words.parse_args()
    torch.set_num_threads(chosen.threads)
    for name, layer, shape, flop in layers():
        forward, backward = measure(layer, shape, getattr(torch, chosen.layout), name != "conv1", chosen.repeats)
        gflops = flop / (forward + backward) / 1e6
        line = {"layer": name, "ms": forward + backward, "forward_ms": forward, "backward_ms": backward}
        print(json.dumps({**line, "gflop_per_s": gflops, "layout": chosen.layout, "torch": torch.__version__}))


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
