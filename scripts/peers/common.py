"""What all peers share: arguments, clock, memory, the line of JSON, and the CNNs in PyTorch's and NumPy's words."""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import workloads
from workloads import Workload

CNNS = ("cnn", "lenet")  # the models whose initial weights are given
Weights = dict[str, np.ndarray]  # as `workloads.weights` names and shapes them


def parser(models: Sequence[str] = ("cnn",)) -> argparse.ArgumentParser:
    """The arguments of every peer; `models` are those it can train."""
    words = argparse.ArgumentParser()
    known = [name for name, workload in workloads.WORKLOADS.items() if workload.model in models]
    words.add_argument("--workload", choices=known, default="W1")
    words.add_argument("--rounds", type=int, default=4, help="the first is reported apart")
    return words


def clock(rounds: int, one_round: Callable[[int], Any]) -> list[float]:
    """Seconds of each of `rounds` calls of `one_round(number)`, which returns when its work is done."""
    seconds = []
    for number in range(rounds):
        start = time.perf_counter()
        one_round(number)
        seconds.append(time.perf_counter() - start)
    return seconds


def peak_mb() -> float:
    """Largest resident memory this process has had, in MB."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def report(
    peer: str,
    workload: Workload,
    seconds: list[float],
    start: Weights,
    final: Weights,
    peak_mb: float,
    packages: Sequence[str],
) -> None:
    """Prints the line of JSON that scripts/compare.py reads: `seconds` of each round, memory of all processes."""
    later = seconds[1:] or seconds
    median = float(np.median(later))
    moved = np.sqrt(sum(np.square(final[name] - start[name], dtype=np.float64).sum() for name in start))
    line = {
        "peer": peer,
        "workload": workload.name,
        "first_round_s": seconds[0],
        "round_s": seconds[1:],
        "median_s": median,
        "images_per_s": workload.images * workload.epochs / median,
        "peak_mb": peak_mb,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "final_accuracy": accuracy(workload, final) if workload.model in CNNS else None,
        "update_norm": float(moved),
    }
    print(json.dumps(line), flush=True)


def inputs(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [n, H, W, C] in 0..1, labels int32 [n]."""
    images, labels = workloads.arrays(workload)
    return images.astype(np.float32) / 255, labels


def accuracy(workload: Workload, weights: Weights, most: int = 2_048) -> float:
    """Share of the first `most` training images that the network gets right."""
    images, labels = (array[:most] for array in inputs(workload))
    parts = [logits(weights, part).argmax(-1) for part in np.array_split(images, -(-len(images) // 64))]
    return float((np.concatenate(parts) == labels).mean())


def logits(weights: Weights, x: np.ndarray) -> np.ndarray:
    """The forward pass of the CNN or of LeNet, x [B, H, W, C] -> [B, classes]."""
    for name in ("conv1", "conv2"):
        kernel = weights[f"{name}.kernel"]
        pad = 1 if len(kernel) == 3 else 0
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
        x = np.tensordot(windows, kernel, ((3, 4, 5), (2, 0, 1))) + weights[f"{name}.bias"]
        squares = np.maximum(x, 0).reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)
        x = squares.max((2, 4))
    x = x.reshape(len(x), -1)
    for number, name in enumerate(dense := [name for name in layers(weights) if name.startswith("dense")], 1):
        x = x @ weights[f"{name}.kernel"] + weights[f"{name}.bias"]
        x = np.maximum(x, 0) if number < len(dense) else x
    return x


def layers(weights: Weights) -> list[str]:
    """Names of the layers, first to last."""
    return list(dict.fromkeys(name.partition(".")[0] for name in weights))


def torch_cnn(workload: Workload) -> Any:
    """The CNN or LeNet as an `nn.Sequential` on [B, C, H, W], holding the initial weights."""
    import torch
    from torch import nn

    parts, shapes = [], workloads.kernel_shapes(workload)
    for name, shape in shapes.items():
        if name.startswith("conv"):
            conv = nn.Conv2d(shape[2], shape[3], shape[0], padding=1 if shape[0] == 3 else 0)
            parts += [conv, nn.ReLU(), nn.MaxPool2d(2)]
        else:
            first = parts and isinstance(parts[-1], nn.MaxPool2d)
            parts += [nn.Flatten() if first else nn.ReLU(), nn.Linear(*shape)]
    net = nn.Sequential(*parts)
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), to_torch(workload, workloads.weights(workload))):
            parameter.copy_(torch.from_numpy(np.array(value)))
    return net


def to_torch(workload: Workload, weights: Weights) -> list[np.ndarray]:
    """Weights in the order of `torch_cnn(...).parameters()`: kernels [out, in, h, w], dense [out, in].

    PyTorch flattens [C, H, W], so the rows of the first dense kernel come in another order.
    """
    shapes, found = workloads.kernel_shapes(workload), []
    for name, shape in shapes.items():
        kernel = weights[f"{name}.kernel"]
        if after_pool(name):
            kernel = kernel.reshape(*pooled(shapes), -1).transpose(2, 0, 1, 3).reshape(shape)
        found += [kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T, weights[f"{name}.bias"]]
    return found


def from_torch(workload: Workload, parameters: Sequence[np.ndarray]) -> Weights:
    """The inverse of `to_torch`."""
    shapes, found = workloads.kernel_shapes(workload), {}
    for (name, shape), kernel, bias in zip(shapes.items(), parameters[::2], parameters[1::2]):
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        if after_pool(name):
            height, width, channels = pooled(shapes)
            kernel = kernel.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(shape)
        found |= {f"{name}.kernel": kernel, f"{name}.bias": bias}
    return found


def after_pool(name: str) -> bool:
    """Whether a layer is the first dense one."""
    return name in ("dense", "dense1")


def pooled(shapes: dict[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Shape [H, W, C] of what the first dense layer is given; images are square."""
    channels = shapes["conv2"][-1]
    side = round((next(shape[0] for name, shape in shapes.items() if after_pool(name)) / channels) ** 0.5)
    return side, side, channels
