"""The head apart from the air around it, and what is done with masks."""

import numpy as np
from scipy import ndimage


def otsu(values: np.ndarray) -> float:
    """The threshold between two groups of values by which they differ most (Otsu 1979, doi 10.1109/TSMC.1979.4310076).

    The brightest half percent, such as vessels and metal, is held at its lower end.
    """
    top = np.quantile(values, 0.995)
    counts, edges = np.histogram(np.minimum(values, top), 256)
    middles, below = (edges[:-1] + edges[1:]) / 2, np.cumsum(counts)
    total, sums = below[-1], np.cumsum(counts * middles)
    means = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(total - below, 1)
    return float(edges[1:][np.argmax(below * (total - below) * (means[0] - means[1]) ** 2)])


def head(image: np.ndarray) -> np.ndarray:
    """The head as a mask without holes, bool of the image's shape; of an image of one value, nothing."""
    if image.min() == image.max():
        return np.zeros(image.shape, bool)
    # Below Otsu's threshold, since dark tissue and a coil's shadow belong to the head as well.
    bright = image > image.min() + 0.5 * (otsu(image) - image.min())
    return filled(largest(ndimage.binary_opening(bright)))


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    parts, count = ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else mask


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask without holes; of a volume in each slice, for a scan ends where the neck goes on."""
    return ndimage.binary_fill_holes(mask) if mask.ndim == 2 else np.stack([filled(one) for one in mask])


def ball(radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The voxels within `radius` mm of one, as a structuring element."""
    reach = [int(radius / step) for step in spacing]
    places = np.meshgrid(*(np.arange(-most, most + 1) * step for most, step in zip(reach, spacing)), indexing="ij")
    return np.asarray(sum(place**2 for place in places) <= radius**2)


def eroded(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """What of a mask is more than `radius` mm from its edge; the border of the image is no edge."""
    padded = np.pad(mask, 1, mode="edge")
    return ndimage.distance_transform_edt(padded, spacing)[(slice(1, -1),) * mask.ndim] > radius


def dilated(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """What is within `radius` mm of a mask."""
    return ndimage.distance_transform_edt(~mask, spacing) <= radius if mask.any() else mask
