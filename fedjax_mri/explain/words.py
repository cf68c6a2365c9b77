"""What a map covers, in a sentence: how much of the head, in how many spots, where, and how much lies outside."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fedjax_mri.xai.measures import HALF

DARK = 0.1  # of the range up to the 99th percentile: what is darker is not head
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")
SPOT = 0.05  # of the highlighted region; smaller ones are not counted


class Cover(NamedTuple):
    """Of one map and head."""

    share: float  # of the head, highlighted: at half of the map's maximum or above
    spots: int
    place: str  # of the evidence's centre, in the picture
    outside: float  # share of the evidence that lies outside of the head


def head(image: np.ndarray) -> np.ndarray:
    """Where there is something to see, bool [H, W]: what is not dark, and the holes in it; image [H, W]."""
    low, high = float(image.min()), float(np.percentile(image, 99))
    return np.asarray(ndimage.binary_fill_holes(image > low + DARK * (high - low)), bool)


def cover(found: np.ndarray, inside: np.ndarray) -> Cover | None:
    """Of a map [H, W] on a head bool [H, W]; None where the map has no evidence for the class, or there is no head."""
    evidence = np.maximum(found, 0)
    if not (evidence.any() and inside.any()):
        return None
    region = evidence >= HALF * evidence.max()
    labels, count = ndimage.label(region, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    outside = float(evidence[~inside].sum() / evidence.sum())
    return Cover(
        float((region & inside).sum() / inside.sum()),
        int((sizes >= SPOT * sizes.sum()).sum()),
        place(ndimage.center_of_mass(evidence * region), inside),
        outside,
    )


def place(centre: Sequence[float], inside: np.ndarray) -> str:
    """A position among the nine parts of the head's box, "upper left" of the picture."""
    parts = []
    for at, axis, names in zip(centre, (1, 0), (ROWS, COLUMNS)):
        there = np.flatnonzero(inside.any(axis))
        third = 3 * (at - there[0]) / (there[-1] - there[0] + 1)
        parts.append(names[int(np.clip(third, 0, 2))])
    return "middle" if parts == ["middle", "middle"] else " ".join(parts)


def sentence(title: str, name: str, found: Cover | None) -> str:
    """What the map of the method `title` covers, for the class `name`."""
    if found is None:
        return f"{title} has nothing that speaks for {name}."
    spots = "one spot" if found.spots == 1 else f"{found.spots} spots"
    share = "under 1 %" if found.share < 0.01 else percent(found.share)
    text = f"{title} lights up {share} of the head, in {spots}, {found.place} of the picture"
    beyond = f"; {percent(found.outside)} of what speaks for {name} lies outside of the head"
    return text + (beyond if found.outside >= 0.01 else "") + "."


def percent(share: float, digits: int = 0) -> str:
    """A share in words."""
    return f"{100 * share:.{digits}f} %"
