"""The types that all readers of image files share: what a reader gives, the limits on files, one command's conversion.

A scan is a slice or a volume in a known place. Axes are those of DICOM's patient coordinates: axial slices from the
feet to the head, rows from the front to the back, columns from the patient's right to the left.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError

MAX_PIXELS = 2**26  # 67 megapixels; the largest mammograms have 30. A file of 100 kB can claim any number
MIN_SIDE = 8  # pixels; what is smaller is no slice of a patient


@dataclass(frozen=True)
class Limits:
    """What a file may claim before anything of it is decoded."""

    pixels: int = MAX_PIXELS  # of one slice
    bytes: int = 2**30  # of a file, and of a volume in float32


class Conversion(NamedTuple):
    """What all files of one command have in common."""

    source: str  # "ct" or "mr"
    to: str  # the other
    window: tuple[float, float] | None  # HU; None: the model knows CT as a display picture in 0..1, not in HU
    model: str  # the run's name
    id: uuid.UUID  # of the command

    @property
    def hounsfield(self) -> bool:
        """Whether what is made is in HU; else it is in 0..1."""
        return self.to == "ct" and self.window is not None

    @property
    def bounds(self) -> str:
        """The limits of the values of a made CT in HU, in words; "" of what is not in HU."""
        return "{:g} to {:g} HU".format(*self.window) if self.to == "ct" and self.window is not None else ""


class Origin(NamedTuple):
    """Whose scan it is, and where it was made; "" where the file does not say."""

    modality: str = ""  # "ct" or "mr"
    patient: str = ""
    study: str = ""
    series: str = ""
    frame: str = ""  # the frame of reference: scans of equal frames lie in the same coordinates
    site: str = ""  # institution, else scanner: the natural client of a federation


class Scan(NamedTuple):
    """A slice or volume as it lies in the patient; where a file does not say how, as it is stored."""

    voxels: np.ndarray  # float32 [D, H, W]
    # HU; MR or anything else of any scale; a display picture in 0..1. A reader gives "unstated" for a CT whose kind of
    # file cannot say that it is in HU; `read.py` gives it no further before `units.py` has decided.
    units: Literal["hu", "arbitrary", "display", "unstated"]
    # (conversion, float32 [D, H, W] in HU or 0..1, whether they are a standard deviation)
    # -> contents of the files to be written, one for each file that was read
    encode: Callable[[Conversion, np.ndarray, bool], list[bytes]]
    spacing: tuple[float, ...] = ()  # mm between slices, rows and columns; () where not known
    origin: Origin = Origin()
    notes: tuple[str, ...] = ()  # what was changed or is doubtful: one sentence each, to be shown to the user


class File(NamedTuple):
    """A file to be read."""

    path: Path
    name: Path  # of the result, below the output folder


class Item(NamedTuple):
    """The files of one scan: a single file, or the images of a DICOM series in order of position."""

    paths: tuple[Path, ...]
    names: tuple[Path, ...]  # of the results, one for each file that `Scan.encode` gives, below the output folder


class Reader(NamedTuple):
    """How one kind of file is read. A module of this folder that has one as `READER` is found by `read.py`."""

    kinds: tuple[str, ...]  # as messages name them: "PNG"
    endings: tuple[str, ...]  # of the names of such files, in lower case: ".png"
    recognizes: Callable[[bytes], bool]  # whether a file that begins with these bytes is of this kind
    # (file, modality "ct" or "mr", "" for whatever the file says, limits) -> its scan.
    # Raises UserError, with the reason and the remedy alone.
    read: Callable[[Path, str, Limits], Scan]


HEAD = 540  # bytes from the start of a file that `Reader.recognizes` is given; the header of NIfTI-2 is as long


def check_slice(height: int, width: int, limits: Limits) -> None:
    """Raises UserError on slices that are too small or too large."""
    if min(height, width) < MIN_SIDE:
        raise UserError(f"{width} x {height} pixels: give {MIN_SIDE} x {MIN_SIDE} or more")
    if height * width > limits.pixels:
        raise UserError(f"{width} x {height} pixels: raise --limits.pixels, now {limits.pixels}, if you trust it")


def check_bytes(count: int, what: str, limits: Limits) -> None:
    """Raises UserError on more bytes than are allowed."""
    if count > limits.bytes:
        raise UserError(f"{what} {count / 1e9:.1f} GB: raise --limits.bytes, now {limits.bytes}, if you trust it")
