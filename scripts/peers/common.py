"""What all peers share: arguments, clock, memory, the line of JSON, and the CNN in PyTorch's and NumPy's words."""

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
        "final_accuracy": accuracy(workload, final) if workload.model == "cnn" else None,
        "update_norm": float(moved),
    }
    print(json.dumps(line), flush=True)


def inputs(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [n, H, W, C] in 0..1, labels int32 [n]."""
    images, labels = workloads.arrays(workload)
    return images.astype(np.float32) / 255, labels


def accuracy(workload: Workload, weights: Weights, most: int = 2_048) -> float:
    """Share of the first `most` training images that the CNN gets right."""
    images, labels = (array[:most] for array in inputs(workload))
    parts = [logits(weights, part).argmax(-1) for part in np.array_split(images, -(-len(images) // 64))]
    return float((np.concatenate(parts) == labels).mean())


def logits(weights: Weights, x: np.ndarray) -> np.ndarray:
    """The CNN's forward pass, x [B, H, W, C] -> [B, classes]."""
    for name in ("conv1", "conv2"):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        kernel = weights[f"{name}.kernel"]
        x = np.tensordot(windows, kernel, ((3, 4, 5), (2, 0, 1))) + weights[f"{name}.bias"]
        squares = np.maximum(x, 0).reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)
        x = squares.max((2, 4))
    return x.reshape(len(x), -1) @ weights["dense.kernel"] + weights["dense.bias"]


def torch_cnn(workload: Workload) -> Any:
    """The CNN as an `nn.Sequential` on [B, C, H, W], holding the initial weights."""
    import torch
    from torch import nn

    height, width, channels = workload.image
    net = nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), workload.classes)),
    )
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), to_torch(workload, workloads.weights(workload))):
            parameter.copy_(torch.from_numpy(np.array(value)))
    return net


def to_torch(workload: Workload, weights: Weights) -> list[np.ndarray]:
    """Weights in the order of `torch_cnn(...).parameters()`: kernels [out, in, h, w], dense [out, C * H * W]."""
    height, width, _ = workload.image
    dense = weights["dense.kernel"].reshape(height // 4, width // 4, 64, -1).transpose(3, 2, 0, 1)
    kernels = [weights[f"{name}.kernel"].transpose(3, 2, 0, 1) for name in ("conv1", "conv2")]
    biases = [weights[f"{name}.bias"] for name in ("conv1", "conv2", "dense")]
    return [kernels[0], biases[0], kernels[1], biases[1], dense.reshape(len(dense), -1), biases[2]]


def from_torch(workload: Workload, parameters: Sequence[np.ndarray]) -> Weights:
    """The inverse of `to_torch`."""
    height, width, _ = workload.image
    kernel1, bias1, kernel2, bias2, dense, bias = parameters
    dense = dense.reshape(-1, 64, height // 4, width // 4).transpose(2, 3, 1, 0)
    return {
        "conv1.kernel": kernel1.transpose(2, 3, 1, 0),
        "conv1.bias": bias1,
        "conv2.kernel": kernel2.transpose(2, 3, 1, 0),
        "conv2.bias": bias2,
        "dense.kernel": dense.reshape(-1, dense.shape[-1]),
        "dense.bias": bias,
    }
