"""Files of any kind as images of one size and grey scale: pictures, DICOM series and volumes, cut to axial slices."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import decoding
from fedjax_mri.data.decoding import DecodedSource, Images
from fedjax_mri.data.files import discover, images, raster, read, series, units
from fedjax_mri.data.files.images import DecodedImage, printable
from fedjax_mri.data.files.scan import File, Item, Limits, Scan

UNSTATED = "does not say whether it is CT or MR, and is taken as MR; for CT give --data.reading.modality ct"
BLANK = 1.0  # grey levels of deviation; a slice with less shows nothing


@dataclass(frozen=True)
class ReadSettings:
    """How files become images; of pictures, which have no units, only `cached` counts."""

    modality: str = ""  # "ct" or "mr", of files that do not say, such as NIfTI; "": these are MR
    window: tuple[float, float] = (-100.0, 300.0)  # HU that are shown as black and white
    ct_offset: float | None = None  # added to a CT whose file does not state HU; None: it must be in HU
    slices: int = 0  # of a volume, evenly spaced; 0: all that show something
    cached: bool = False  # images are kept in a file of the user's cache and need not fit into memory

    def __post_init__(self) -> None:
        if self.modality not in ("", "ct", "mr"):
            raise UserError(f"data.reading.modality={self.modality}: give ct or mr, or leave it")
        if not self.window[0] < self.window[1]:
            raise UserError(f"data.reading.window={self.window}: give the lower limit first")
        if self.slices < 0:
            raise UserError(f"data.reading.slices={self.slices}: give a number of slices, or 0 for all")


class SliceSettings(NamedTuple):
    """How the images of one file are made."""

    size: int
    channels: int
    reading: ReadSettings
    in_hu: bool  # int16, CT scans in HU; else uint8
    blank: bool  # whether slices that show nothing are kept


class LoadedImages(NamedTuple):
    """Images of files, of which those of a DICOM series are one source."""

    images: Images
    names: list[str]  # of each source
    lines: list[str]  # on what was left out
    files: Sequence[tuple[Path, ...]] = ()  # of each source


def load_images(
    paths: Sequence[Path],
    size: int,
    channels: int,
    reading: ReadSettings,
    apart: Mapping[Path, Hashable],
    known: Mapping[Path, str] | None = None,
    blank: bool = False,
) -> LoadedImages:
    """Returns the images in files, uint8 [size, size, channels].

    Files of which `apart` differs are never one series.

    Where `known` tells the modality "ct" or "mr" of each file, images are int16, and those of CT scans are in HU.
    Slices that show nothing are left out, unless `blank`. Raises UserError on a bad size, or where there is no image.
    """
    if size < 1 or channels not in (1, 3):
        raise UserError(f"images of size {size} with {channels} channels: size must be 1 or more, channels 1 or 3")
    whole, lines = series.items([File(path, Path(path.name)) for path in paths], whole=True)
    items = [part for item in whole for part in split_item(item, apart)]
    of_each = [known[path] for path in paths] if known else []
    grouped = [len(item.paths) for item in items]
    facts = [of_each, blank, grouped, *facts_of(paths, size, channels, reading)] if reading.cached else None

    def one(paths: tuple[Path, ...]) -> DecodedSource:
        own = replace(reading, modality=known[paths[0]]) if known else reading
        return load_item(paths, SliceSettings(size, channels, own, known is not None, blank))

    files = [item.paths for item in items]
    names = [printable(each[0]) for each in files]
    return LoadedImages(decoding.decode_sources(files, one, names, facts), names, lines, files)


def split_item(item: Item, apart: Mapping[Path, Hashable]) -> list[Item]:
    """Returns the files of an item as items of their own where `apart` differs.

    One series may hold images of two classes.
    """
    parts: dict[Hashable, list[Path]] = {}
    for path in item.paths:
        parts.setdefault(apart[path], []).append(path)
    return [Item(tuple(paths), ()) for paths in parts.values()]


def facts_of(paths: Sequence[Path], size: int, channels: int, reading: ReadSettings) -> list[object]:
    """Returns what decides the images of files: their names, sizes and times, and the settings."""
    stats = [(path, path.stat() if path.exists() else None) for path in paths]
    files = [(printable(path), stat and stat.st_size, stat and stat.st_mtime_ns) for path, stat in stats]
    return [size, channels, reading.modality, reading.window, reading.ct_offset, reading.slices, files]


def load_item(paths: tuple[Path, ...], making: SliceSettings) -> DecodedSource:
    """Returns the images of one file or series, or the reason why it cannot be read."""
    size, channels, reading, in_hu, blank = making
    try:
        if len(paths) == 1 and raster.READER.recognizes(read.head(paths[0], Limits())):
            found = images.decode_picture(str(paths[0]), size, channels)
            if isinstance(found, str):
                return DecodedSource(reason=found)
            made = found._replace(pixels=found.pixels.astype(np.int16)) if in_hu else found
            return DecodedSource([made], notes=found.notes)
        scan = read.read_scan(Item(paths, ()), reading.modality, Limits(), reading.ct_offset)
        values = resize_slices(scan, size, reading.window)
    except UserError as error:
        alone = len(paths) == 1
        return DecodedSource(reason=str(error)) if alone else one_by_one(paths, making)
    kind, site = "ct" if scan.units == "hu" else "mr", scan.origin.site
    pictures = to_grey_levels(values, kind, reading.window)
    places = np.arange(len(pictures)) if blank else select_slices(pictures, reading.slices)
    pixels = (
        np.rint(values).astype(np.int16) if in_hu and kind == "ct" else pictures.astype(np.int16) if in_hu else pictures
    )
    slices = [decoded_slice(pixels[place], channels) for place in places]
    reason = "" if slices else "nothing is to be seen on any slice"
    extent = tuple(mm * voxels for mm, voxels in zip(scan.spacing, scan.voxels.shape))
    notes = scan.notes if scan.origin.modality else (*scan.notes, UNSTATED)
    return DecodedSource(slices, reason, kind, "", scan.origin.patient or scan.origin.series, site, notes, extent)


def one_by_one(paths: tuple[Path, ...], making: SliceSettings) -> DecodedSource:
    """Returns the images of a series that is no volume, each read alone."""
    found = [load_item((path,), making) for path in paths]
    good = [one for one in found if one.images]
    if not good:
        return DecodedSource(reason=found[0].reason)
    made = [image for one in good for image in one.images]
    note = "a series that is no volume was read image by image"
    lost = (f"{len(found) - len(good)} of its images could not be read",) if len(good) < len(found) else ()
    return good[0]._replace(images=made, notes=(note, *lost, *good[0].notes), extent=())


def resize_slices(scan: Scan, size: int, window: tuple[float, float]) -> np.ndarray:
    """Returns the slices of a scan in squares, float32 [D, size, size]: a CT in HU, others in 0..1."""
    is_ct = scan.units == "hu"
    return units.to_model(scan, "ct" if is_ct else "mr", window if is_ct else None, (size, size))


def to_grey_levels(values: np.ndarray, kind: str, window: tuple[float, float]) -> np.ndarray:
    """Returns slices as pictures, uint8 [D, size, size]: a CT in its window, an MR up to its white."""
    low, high = (np.float32(edge) for edge in (window if kind == "ct" else (0.0, 1.0)))
    return np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)


def select_slices(pictures: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of pictures [D, H, W] that show something.

    There are at most `count`, evenly spaced, where that is not 0.
    """
    some = np.flatnonzero(pictures.std((1, 2)) >= BLANK)
    return some[evenly(len(some), count)]


def evenly(total: int, count: int) -> np.ndarray:
    """Returns at most `count` places of `total`, evenly spaced; all where it is 0."""
    return np.unique(np.linspace(0, total - 1, count or total).round().astype(int))


def files_below(path: Path) -> list[Path]:
    """Returns a file itself, or the images in a folder."""
    return sorted(discover.images(path, None)[0]) if path.is_dir() else [path]


def decoded_slice(pixels: np.ndarray, channels: int) -> DecodedImage:
    """Returns a slice [H, W] with what tells its exact copies.

    Near copies are not told: heads of different patients are too much alike.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).digest()
    return DecodedImage(np.repeat(pixels[..., None], channels, -1), int.from_bytes(digest, "big"), 0, 0)
