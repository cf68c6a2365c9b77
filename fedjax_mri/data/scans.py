"""Files of any kind as images of one size and grey scale: pictures, DICOM series and volumes, cut to axial slices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import decoding, duplicates
from fedjax_mri.data.decoding import Found, Images
from fedjax_mri.data.files import images, raster, read, series, units
from fedjax_mri.data.files.images import Decoded, printable
from fedjax_mri.data.files.scan import File, Item, Limits, Scan

BLANK = 1.0  # grey levels of deviation; a slice with less shows nothing


@dataclass(frozen=True)
class Reading:
    """How files become images; of pictures, which have no units, only `cached` counts."""

    modality: Literal["", "ct", "mr"] = ""  # of files that do not say, such as NIfTI; "": these are MR
    window: tuple[float, float] = (-100.0, 300.0)  # HU that are shown as black and white
    ct_offset: float | None = None  # added to a CT whose file does not state HU; None: it must be in HU
    slices: int = 0  # of a volume, evenly spaced; 0: all that show something
    cached: bool = False  # images are kept in a file of the user's cache and need not fit into memory

    def __post_init__(self) -> None:
        if not self.window[0] < self.window[1]:
            raise UserError(f"data.reading.window={self.window}: give the lower limit first")
        if self.slices < 0:
            raise UserError(f"data.reading.slices={self.slices}: give a number of slices, or 0 for all")


class Read(NamedTuple):
    """Images of files, of which those of a DICOM series are one source."""

    images: Images
    names: list[str]  # of each source
    lines: list[str]  # on what was left out
    files: Sequence[tuple[Path, ...]] = ()  # of each source


def read_files(paths: Sequence[Path], size: int, channels: int, reading: Reading) -> Read:
    """The images in files, uint8 [size, size, channels]. Raises UserError on a bad size, or where there is not one."""
    if size < 1 or channels not in (1, 3):
        raise UserError(f"images of size {size} with {channels} channels: size must be 1 or more, channels 1 or 3")
    items, lines = series.items([File(path, Path(path.name)) for path in paths], whole=True)
    one = partial(read_item, size=size, channels=channels, reading=reading)
    facts = facts_of(paths, size, channels, reading) if reading.cached else None
    files = [item.paths for item in items]
    names = [printable(each[0]) for each in files]
    return Read(decoding.decode(files, one, names, facts), names, lines, files)


def facts_of(paths: Sequence[Path], size: int, channels: int, reading: Reading) -> list[object]:
    """What decides the images of files: their names, sizes and times, and the settings."""
    stats = [(path, path.stat() if path.exists() else None) for path in paths]
    files = [(printable(path), stat and stat.st_size, stat and stat.st_mtime_ns) for path, stat in stats]
    return [size, channels, reading.modality, reading.window, reading.ct_offset, reading.slices, files]


def read_item(paths: tuple[Path, ...], size: int, channels: int, reading: Reading) -> Found:
    """The images of one file or series, or the reason why it cannot be read."""
    try:
        if len(paths) == 1 and raster.READER.recognizes(read.head(paths[0], Limits())):
            found = images.decode(str(paths[0]), size, channels)
            return Found(reason=found) if isinstance(found, str) else Found([found], notes=found.notes)
        scan = read.read_item(Item(paths, ()), reading.modality, Limits(), reading.ct_offset)
        slices = list(chosen(shown(scan, size, reading.window), reading.slices))
    except UserError as error:
        return one_by_one(paths, size, channels, reading) if len(paths) > 1 else Found(reason=str(error))
    made, kind = [decoded(image, channels) for image in slices], "ct" if scan.units == "hu" else "mr"
    reason = "" if slices else "nothing is to be seen on any slice"
    patient, site = scan.origin.patient or scan.origin.series, scan.origin.site
    return Found(made, reason, kind, patient=patient, site=site, notes=scan.notes)


def one_by_one(paths: tuple[Path, ...], size: int, channels: int, reading: Reading) -> Found:
    """The images of a series that is no volume, each read alone."""
    found = [read_item((path,), size, channels, reading) for path in paths]
    good = [one for one in found if one.images]
    if not good:
        return Found(reason=found[0].reason)
    made = [image for one in good for image in one.images]
    note = "a series that is no volume was read image by image"
    lost = (f"{len(found) - len(good)} of its images could not be read",) if len(good) < len(found) else ()
    return good[0]._replace(images=made, notes=(note, *lost, *good[0].notes))


def shown(scan: Scan, size: int, window: tuple[float, float]) -> np.ndarray:
    """The slices of a scan as pictures, uint8 [D, size, size]: a CT in its window, an MR up to its white."""
    if scan.units == "hu":
        low, high = (np.float32(edge) for edge in window)
        values = (units.to_model(scan, "ct", window, (size, size)) - low) / (high - low)
    else:
        values = units.to_model(scan, "mr", None, (size, size))
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def chosen(slices: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Those of the slices [D, H, W] that show something; at most `count`, evenly spaced, where that is not 0."""
    some = slices[slices.std((1, 2)) >= BLANK]
    yield from some[np.unique(np.linspace(0, len(some) - 1, count or len(some)).round().astype(int))]


def decoded(image: np.ndarray, channels: int) -> Decoded:
    """A slice [H, W] with what tells its copies."""
    from PIL import Image

    picture = Image.fromarray(image)
    pixels = np.repeat(image[..., None], channels, -1)
    return Decoded(pixels, duplicates.exact(picture), *duplicates.perceptual_pair(picture))
