"""The head apart from the air around it, and what is done with masks."""

import numpy as np
from scipy import ndimage


def otsu(values: np.ndarray) -> float:
    """Returns the threshold between two groups of values by which they differ most.

    Otsu 1979, doi 10.1109/TSMC.1979.4310076.

    The brightest half percent, such as vessels and metal, is held at its lower end.
    """
    top = np.quantile(values, 0.995)
    counts, edges = np.histogram(np.minimum(values, top), 256)
    middles, below = (edges[:-1] + edges[1:]) / 2, np.cumsum(counts)
    total, sums = below[-1], np.cumsum(counts * middles)
    means = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(total - below, 1)
    return float(edges[1:][np.argmax(below * (total - below) * (means[0] - means[1]) ** 2)])


def head(image: np.ndarray) -> np.ndarray:
    """Returns the head as a mask without holes, bool of the image's shape; of an image of one value, nothing."""
    if image.min() == image.max():
        return np.zeros(image.shape, bool)
    # Below Otsu's threshold, since dark tissue and a coil's shadow belong to the head as well.
    bright = image > image.min() + 0.5 * (otsu(image) - image.min())
    return filled(largest(ndimage.binary_opening(bright)))


def largest(mask: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Returns the largest connected part of a mask, and those that have at least a `share` of its size."""
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=2)
    sizes[0] = 0
    return (sizes >= share * sizes.max())[parts] & mask if count else mask


def filled(mask: np.ndarray) -> np.ndarray:
    """Returns a mask without holes; of a volume in each slice, for a scan ends where the neck goes on."""
    return ndimage.binary_fill_holes(mask) if mask.ndim == 2 else np.stack([filled(one) for one in mask])


def eroded(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Returns what of a mask is more than `radius` mm from its edge; the border of the image is no edge."""
    padded = np.pad(mask, 1, mode="edge")
    return ndimage.distance_transform_edt(padded, spacing)[(slice(1, -1),) * mask.ndim] > radius


def dilated(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Returns what is within `radius` mm of a mask."""
    return ndimage.distance_transform_edt(~mask, spacing) <= radius if mask.any() else mask


def closed(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Returns a mask with gaps of up to 2 `radius` mm bridged, and what is then enclosed filled."""
    wide = [int(radius / step) + 1 for step in spacing]
    padded = filled(dilated(np.pad(mask, [(most, most) for most in wide]), radius, spacing))
    grown = ndimage.distance_transform_edt(padded, spacing) > radius
    return grown[tuple(slice(most, -most) for most in wide)] | mask
