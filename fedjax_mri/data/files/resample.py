"""Between a slice's own grid and the network's: proportions in mm kept, the rest filled; smoothed when shrinking.

Both ways are bilinear. On the way back what was filled is cut off, and each value lies where its source lay.
"""

import numpy as np

SQUARE = (1.0, 1.0)


def fit(image: np.ndarray, size: tuple[int, int], fill: float, pixel: tuple[float, float] = SQUARE) -> np.ndarray:
    """Returns an image [h, w] resized to lie in the middle of [H, W], with `fill` around it.

    `pixel` has the distances between its rows and between its columns, in any unit.
    """
    (top, left), (height, width) = placement(image.shape, size, pixel)
    full = np.full(size, fill, np.float32)
    full[top : top + height, left : left + width] = resize(image, (height, width))
    return full


def unfit(full: np.ndarray, shape: tuple[int, int], pixel: tuple[float, float] = SQUARE) -> np.ndarray:
    """Returns the inverse of `fit`: an image [h, w] from one [H, W]."""
    (top, left), (height, width) = placement(shape, full.shape, pixel)
    return resize(full[top : top + height, left : left + width], shape)


def placement(
    shape: tuple[int, ...], size: tuple[int, ...], pixel: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the corner and size of the largest rectangle that fits into the middle of [H, W].

    Its proportions are those of [h, w] pixels.
    """
    extent = [count * step for count, step in zip(shape, pixel)]
    scale = min(side / length for side, length in zip(size, extent))
    height, width = (max(1, round(length * scale)) for length in extent)
    return ((size[0] - height) // 2, (size[1] - width) // 2), (height, width)


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns an image [h, w] resized to another shape, float32; of the same shape, the same values."""
    from PIL import Image

    values = np.ascontiguousarray(image, np.float32)
    if image.shape == tuple(shape):
        return values
    return np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.BILINEAR))
