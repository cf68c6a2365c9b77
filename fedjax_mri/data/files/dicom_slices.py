"""DICOM images as one scan: turned to axial slices, and turned back to be written, each with its own geometry."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import derived, orientation
from fedjax_mri.data.files.dicom_place import NEARLY, ImagePlane, affine, depths, irregular
from fedjax_mri.data.files.scan import Conversion, Limits, Origin, Scan, check_slice
from fedjax_mri.data.files.volume import doubts

NO_POSITION = "does not say where it lies in the patient: what is made of it is a Secondary Capture"
NO_VOLUME = "several of its images lie at the same place (echoes, times, directions): they are no volume"
NO_ORIENTATION = "does not say how it is oriented: taken as an axial slice, the patient's left on the right"


class Slice(NamedTuple):
    """One DICOM image of one frame."""

    values: np.ndarray  # float32 [rows, columns], HU or MR magnitude
    place: ImagePlane
    origin: Origin
    source: derived.Source  # what a derived object needs
    notes: tuple[str, ...]


def scan(slices: Sequence[Slice], limits: Limits, volume: bool) -> Scan:
    """Returns the scan that images form, of which `encode` writes one file for each, in their order.

    Axial ones that are no `volume` may lie at one place. Raises UserError where images form no scan.
    """
    first, places = slices[0], [one.place for one in slices]
    check_stack(slices)
    depth = depths(places)
    known = bool(np.isfinite(depth).all())
    order = np.argsort(depth, kind="stable") if known else np.arange(len(slices))
    ordered = [places[place] for place in order]
    grid = affine(ordered)
    said = notes(slices, ordered) + doubts(grid, orientation.spacing(grid))
    if known and len(slices) > 1 and np.diff(depth[order]).min() < NEARLY:
        if volume or not orientation.is_axial(affine(places[:1])):
            raise UserError("several images lie at the same place (echoes, times, directions): give one of them")
        order, grid, said = np.arange(len(slices)), affine(places[:1]), (*said, NO_VOLUME)
    turn, turn_back = orientation.turns(grid)
    stack = np.stack([slices[place].values for place in order])
    voxels = np.ascontiguousarray(turn(stack.transpose(2, 1, 0)))
    check_axial(voxels, len(slices), limits)
    return Scan(
        voxels,
        "hu" if first.origin.modality == "ct" else "arbitrary",
        partial(encode, [one.source for one in slices], order, turn_back),
        () if first.place.spacing is None else orientation.spacing(grid),
        first.origin,
        said,
    )


def notes(slices: Sequence[Slice], ordered: Sequence[ImagePlane]) -> tuple[str, ...]:
    """Returns notes on images, and on what is odd about their places, which are given in order."""
    found = [note for one in slices for note in one.notes]
    if uneven := irregular(ordered):
        found.append(uneven)
    if any(one.place.orientation is None for one in slices):
        found.append(NO_ORIENTATION)
    elif not all(derived.has_position(one.source) for one in slices):
        found.append(NO_POSITION)
    return tuple(dict.fromkeys(found))


def check_stack(slices: Sequence[Slice]) -> None:
    """Raises UserError unless images are of one size, orientation and spacing."""
    first = slices[0]
    for other in slices[1:]:
        if other.values.shape != first.values.shape:
            sizes = [" x ".join(map(str, one.values.shape[::-1])) for one in (first, other)]
            raise UserError(f"its images have {sizes[0]} and {sizes[1]} pixels: give those of one size")
        for mine, its in zip(first.place.grid, other.place.grid):
            if (mine is None) != (its is None) or (mine is not None and np.abs(mine - its).max() > NEARLY):
                raise UserError("its images differ in orientation or spacing: give those of one kind")


def check_axial(voxels: np.ndarray, images: int, limits: Limits) -> None:
    """Raises UserError where axial slices would be too small or too large."""
    _, height, width = voxels.shape
    if images == 1 and len(voxels) > 1:
        raise UserError("a single sagittal or coronal image: give all images of its series in one folder")
    too_few = images < 8 and images == min(height, width)  # each of them gives a row or a column of a slice
    if too_few:
        raise UserError(f"{images} sagittal or coronal images: give all images of the series in one folder")
    check_slice(height, width, limits)


def encode(
    sources: Sequence[derived.Source],
    order: np.ndarray,
    turn_back: orientation.Turn,
    conversion: Conversion,
    values: np.ndarray,
    deviation: bool,
) -> list[bytes]:
    """Returns the bytes of one DICOM file for each image, made of values [D, H, W] in HU or 0..1."""
    stack = turn_back(values).transpose(2, 1, 0)
    rank = np.argsort(order)
    return [derived.encode(source, conversion, stack[rank[at]], deviation) for at, source in enumerate(sources)]
