"""DICOM series: which files belong together, in which order, and their volume.

Headers alone are read to find that out, each once, by several threads.
"""

import itertools
import mmap
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import dicom, dicom_frames, dicom_slices
from fedjax_mri.data.files.dicom_place import ImagePlane, affine, depths, image_plane, irregular, texts
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.files.orientation import is_axial
from fedjax_mri.data.files.scan import HEAD, File, Item, Limits, Scan, check_bytes

MARKS = ("ImageType", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber")
NEEDED = (
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "InstanceNumber", *MARKS),
)


class Header(NamedTuple):
    """What a file's header says on where it belongs; nothing, where it is no DICOM file or cannot be read."""

    file: File
    stack: tuple[Any, ...] = ()  # equal for images that may form one volume: series, size, orientation, spacing
    place: ImagePlane = ImagePlane(None, None, None, None)
    instance: str = ""  # the identifier of the image
    marks: tuple[str, ...] = ()  # what tells images at one place apart, in the order of `MARKS`
    frames: int = 1


def items(files: Sequence[File], whole: bool) -> tuple[list[Item], list[str]]:
    """Returns the scans in files, and lines to be shown to the user.

    `whole`: each DICOM series is one item. Otherwise axial images are items of their own, in order of position, and
    only a series in another orientation, of which axial slices have to be cut, is one.
    A file that cannot be read is an item; `read` refuses it.
    """
    found: list[Item] = []
    lines: list[str] = []
    for stack in stacks(headers(files)):
        folder = printable(stack[0].file.path.parent)
        if len(stack) > 1 and (whole or not is_axial(affine([stack[0].place]))):
            once = list({one.instance: one for one in reversed(stack)}.values())[::-1]
            found += [item(part) for part in parts(once)]
            if len(once) < len(stack):
                lines.append(f"{folder}: {len(stack) - len(once)} copies of images of the same series are left out")
        else:
            ordered = in_order(stack)
            found += [item([one]) for one in ordered]
            if uneven := irregular([one.place for one in ordered]):
                lines.append(f"{folder}: a series of {len(stack)} images: {uneven}; each keeps its own place")
    return found, lines


def headers(files: Sequence[File]) -> list[Header]:
    """Returns the headers of files, read by several threads."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(pool.map(header, files))


def header(file: File) -> Header:
    """Returns the header of a file."""
    if not file.path.is_file():  # opening a pipe would wait for its other end
        return Header(file)
    try:
        with file.path.open("rb") as opened:
            if not dicom.recognizes(opened.read(HEAD)):
                return Header(file)
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                dataset = dicom.parse(content, Limits(), NEEDED)
                where, marks = image_plane(dataset), tuple("\\".join(texts(dataset, name)) for name in MARKS)
                instance, frames = str(dataset.get("SOPInstanceUID")), dicom_frames.count(dataset)
                return Header(file, stack_of(dataset, where), where, instance, marks, frames)
    except Exception:  # whatever is wrong is said when the file is read
        return Header(file)


def stacks(headers: Sequence[Header]) -> list[list[Header]]:
    """Returns images that may form one volume, together.

    A file of several frames, of no known place or of another kind is alone.
    """
    found: dict[Any, list[Header]] = {}
    for one in headers:
        alone = one.frames > 1 or one.place.position is None
        found.setdefault(one.file.path if alone else one.stack, []).append(one)
    return list(found.values())


def stack_of(dataset: Any, where: ImagePlane) -> tuple[Any, ...]:
    """Returns what images of one volume have in common; directions and distances to two digits."""
    names = ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns")
    grid = [() if values is None else tuple(np.round(values, 2).ravel() + 0.0) for values in where.grid]
    return (*(str(dataset.get(name)) for name in names), *grid)


def in_order(stack: Sequence[Header]) -> list[Header]:
    """Returns images in order of position along their normal; of one position, in the order that they come."""
    depth = depths([one.place for one in stack])
    return [stack[at] for at in np.argsort(depth, kind="stable")] if np.isfinite(depth).all() else list(stack)


def parts(stack: Sequence[Header]) -> Iterator[list[Header]]:
    """Yields volumes: all images, or where several lie at one place, those of equal marks, as of one echo."""
    for mark in (None, *range(len(MARKS))):
        groups = [list(stack)] if mark is None else grouped(stack, mark)
        if all(distinct(group) for group in groups) or mark == len(MARKS) - 1:
            yield from (in_order(group) for group in groups)
            return


def grouped(stack: Sequence[Header], mark: int) -> list[list[Header]]:
    """Returns images grouped by one of their marks."""

    def value(one: Header) -> str:
        return one.marks[mark]

    return [list(group) for _, group in itertools.groupby(sorted(stack, key=value), value)]


def distinct(stack: Sequence[Header]) -> bool:
    """Returns whether no two images lie at one place."""
    depth = np.round(depths([one.place for one in stack]), 2)
    return len(np.unique(depth)) == len(stack)


def item(stack: Sequence[Header]) -> Item:
    """Returns the item of images in order.

    A file of several frames has a result for each, numbered.
    """
    names, frames = [one.file.name for one in stack], stack[0].frames
    if frames > 1:
        ending = names[0].suffix if names[0].suffix.lower() in dicom.ENDINGS else ""
        stem = names[0].name.removesuffix(ending)
        names = [names[0].with_name(f"{stem}_{frame:04d}{ending}") for frame in range(1, frames + 1)]
    return Item(tuple(one.file.path for one in stack), tuple(names))


def read(paths: Sequence[Path], modality: str, limits: Limits) -> Scan:
    """Returns the volume of a DICOM series. Raises UserError where its files form none, with the file's name."""
    slices: list[dicom_slices.Slice] = []
    for path in paths:
        try:
            slices += dicom.slices(path, modality, limits)
        except UserError as error:
            raise UserError(f"{path.name}: {error}") from error
        check_bytes(len(paths) * slices[0].values.nbytes, f"a series of {len(paths)} images of", limits)
    return dicom_slices.scan(slices, limits, volume=True)
