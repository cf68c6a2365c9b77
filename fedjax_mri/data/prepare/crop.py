"""The box around the heads of scans of one grid."""

import math
from collections.abc import Sequence

import numpy as np

Box = tuple[slice, ...]


def box(heads: Sequence[np.ndarray], spacing: tuple[float, ...], margin: float) -> Box:
    """Returns the smallest box around masks of one shape, with a margin in mm; everything if they are empty."""
    joined = np.logical_or.reduce(heads)
    if not joined.any():
        return (slice(None),) * joined.ndim
    found = []
    for axis, step in enumerate(spacing):
        places = np.flatnonzero(joined.any(tuple(other for other in range(joined.ndim) if other != axis)))
        more = math.ceil(margin / step)
        found.append(slice(max(int(places[0]) - more, 0), int(places[-1]) + 1 + more))
    return tuple(found)
