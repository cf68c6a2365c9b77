"""Layers as loops over the window, in float64 NumPy: what the networks' own are compared with."""

import numpy as np


def conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding) -> np.ndarray:
    """x [B, H, W, C], kernel [h, w, C, O], padding as pairs or one number -> [B, H', W', O]."""
    padding = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    size = [(n - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel.shape)]
    y = np.zeros((len(x), *size, kernel.shape[-1]))
    for i, j in np.ndindex(*kernel.shape[:2]):
        ends = [offset + (n - 1) * stride + 1 for offset, n in zip((i, j), size)]
        y += x[:, i : ends[0] : stride, j : ends[1] : stride] @ kernel[i, j].astype(np.float64)
    return y


def conv_transpose(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each pixel of x [B, H, W, C] times kernel [k, k, C, O] added at twice its place, one before -> [B, 2H, 2W, O]."""
    height, width, side = *x.shape[1:3], len(kernel)
    y = np.zeros((len(x), 2 * height + 2, 2 * width + 2, kernel.shape[-1]))  # one pixel beyond each edge
    for i, j, k, l in np.ndindex(height, width, side, side):
        y[:, 2 * i + k, 2 * j + l] += x[:, i, j].astype(np.float64) @ kernel[k, l].astype(np.float64)
    return y[:, 1:-1, 1:-1]


def same(size: tuple[int, int], window: tuple[int, int], stride: int) -> list[tuple[int, int]]:
    """Zeros of a "SAME" convolution: as few as give ceil(size / stride) outputs, the odd one after."""
    outputs = [-(-n // stride) for n in size]
    total = [max((o - 1) * stride + k - n, 0) for o, k, n in zip(outputs, window, size)]
    return [(t // 2, t - t // 2) for t in total]


def max_pool(x: np.ndarray) -> np.ndarray:
    """3 x 3 at stride 2, padded by 1 with what never wins."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    starts = [range(0, n - 2, 2) for n in x.shape[1:3]]
    rows = [[x[:, i : i + 3, j : j + 3].max((1, 2)) for j in starts[1]] for i in starts[0]]
    return np.moveaxis(np.array(rows), 2, 0)


def norm(x: np.ndarray, params: dict, statistics: dict) -> np.ndarray:
    """BatchNorm by its running statistics where there are some, else GroupNorm with 8 groups."""
    if statistics:
        mean, var, params = statistics["batch"]["mean"], statistics["batch"]["var"], params["batch"]
    else:
        grouped = x.reshape(len(x), -1, 8, x.shape[-1] // 8)
        mean, var = (np.repeat(f(grouped, (1, 3)), x.shape[-1] // 8, -1)[:, None, None] for f in (np.mean, np.var))
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
