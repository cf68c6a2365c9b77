"""Describes in a sentence what a map covers: how much of the head, in how many spots, where, how much outside."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fedjax_mri.xai.measures import HALF

DARK = 0.1  # of the range up to the 99th percentile: what is darker is not head
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "middle", "right")
SPOT = 0.05  # of the highlighted region; smaller ones are not counted


MEANINGS = {  # beginnings of classes' names, letters alone -> what they are
    "notumo": "no tumour is seen",
    "glioma": "a tumour of the supporting cells of the brain, within the brain itself",
    "meningioma": "a tumour of the membranes around the brain, mostly benign, that presses on it from outside",
    "pituitary": "a tumour of the pituitary gland, at the base of the brain behind the nose",
}


class Coverage(NamedTuple):
    """What the positive part of a map covers of a head."""

    share: float  # of the head, highlighted: at half of the map's maximum or above
    spots: int
    place: str  # of the evidence's centre, in the picture
    outside: float  # share of the evidence that lies outside of the head


def head(image: np.ndarray) -> np.ndarray:
    """Returns the pixels of the head in an image [H, W], bool [H, W].

    They are those that are not dark, and the holes among them.
    """
    low, high = float(image.min()), float(np.percentile(image, 99))
    return np.asarray(ndimage.binary_fill_holes(image > low + DARK * (high - low)), bool)


def coverage(found: np.ndarray, inside: np.ndarray) -> Coverage | None:
    """Returns what a map [H, W] covers of a head, bool [H, W].

    It is None without evidence for the class, or without a head.
    """
    evidence = np.maximum(found, 0)
    if not (evidence.any() and inside.any()):
        return None
    region = evidence >= HALF * evidence.max()
    labels, count = ndimage.label(region, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    outside = float(evidence[~inside].sum() / evidence.sum())
    return Coverage(
        float((region & inside).sum() / inside.sum()),
        int((sizes >= SPOT * sizes.sum()).sum()),
        position(ndimage.center_of_mass(evidence * region), inside),
        outside,
    )


def position(centre: Sequence[float], inside: np.ndarray) -> str:
    """Returns where a point lies among the nine parts of the head's bounding box, in words such as "upper left"."""
    parts = []
    for at, axis, names in zip(centre, (1, 0), (ROWS, COLUMNS)):
        there = np.flatnonzero(inside.any(axis))
        third = 3 * (at - there[0]) / (there[-1] - there[0] + 1)
        parts.append(names[int(np.clip(third, 0, 2))])
    return "middle" if parts == ["middle", "middle"] else " ".join(parts)


def sentence(title: str, name: str, found: Coverage | None) -> str:
    """Returns a sentence on what the map of the method `title` covers, for the class `name`."""
    if found is None:
        return f"{title} has nothing that speaks for {name}."
    spots = "one spot" if found.spots == 1 else f"{found.spots} spots"
    share = "under 1 %" if found.share < 0.01 else percent(found.share)
    text = f"{title} lights up {share} of the head, in {spots}, {found.place} of the picture"
    beyond = f"; {percent(found.outside)} of what speaks for {name} lies outside of the head"
    return text + (beyond if found.outside >= 0.01 else "") + "."


def percent(share: float, digits: int = 0) -> str:
    """Returns a share in per cent, such as "12 %"."""
    return f"{100 * share:.{digits}f} %"


def meaning(name: str) -> str:
    """Returns what a class of brain tumours is, in words; "" of any other class."""
    letters = "".join(filter(str.isalpha, name.lower()))
    return next((text for start, text in MEANINGS.items() if letters.startswith(start)), "")
