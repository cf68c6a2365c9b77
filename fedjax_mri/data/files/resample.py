"""Between a slice's own grid and the network's: proportions kept, the rest filled; bilinear, smoothed when shrinking.

Pixels are taken as square. On the way back what was filled is cut off, and each value lies where its source lay.
"""

import numpy as np


def fit(image: np.ndarray, size: tuple[int, int], fill: float) -> np.ndarray:
    """An image [h, w] resized to lie in the middle of [H, W], with `fill` around it."""
    (top, left), (height, width) = placement(image.shape, size)
    full = np.full(size, fill, np.float32)
    full[top : top + height, left : left + width] = resize(image, (height, width))
    return full


def unfit(full: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `fit`: an image [h, w] from one [H, W]."""
    (top, left), (height, width) = placement(shape, full.shape)
    return resize(full[top : top + height, left : left + width], shape)


def placement(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The corner and size of the largest rectangle of the proportions [h, w] in the middle of [H, W]."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (max(1, round(side * scale)) for side in shape)
    return ((size[0] - height) // 2, (size[1] - width) // 2), (height, width)


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image [h, w] resized to another shape, float32; of the same shape, the same values."""
    from PIL import Image

    values = np.ascontiguousarray(image, np.float32)
    if image.shape == tuple(shape):
        return values
    return np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.BILINEAR))
