"""Reads files as images like those that a run's classifier was trained on: of its modality, size and grey values."""

import uuid
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import images, raster, read, resample, units
from fedjax_mri.data.files.scan import Conversion, Limits, Scan
from fedjax_mri.explain.model import Trained
from fedjax_mri.tasks.intensities import displayed


class Reader(NamedTuple):
    """How files become images for one run's classifier."""

    image: tuple[int, int, int]  # [H, W, C]
    conversion: Conversion  # of which the source's side is used: modality and window
    decodes: bool  # display pictures are read as in training, where that read files
    resizes: bool  # whether the run brings images of any size to its own
    limits: Limits
    ct_offset: float | None = None  # see `read.read`


def reader(trained: Trained, limits: Limits, ct_offset: float | None = None) -> Reader:
    """Returns the reader for files of a run's modality; where its data do not say which that is, they count as MR.

    Raises UserError where images have a channel for each of two modalities.
    """
    data = trained.data
    if trained.image[-1] > 1 and len(set(data.modalities)) > 1:
        both = " and ".join(one.upper() for one in data.modalities)
        raise UserError(f"{trained.name}: its images hold {both} in their channels, and explain reads one image a file")
    modality = data.modalities[0] if data.modalities else "mr"
    other = {"ct": "mr", "mr": "ct"}[modality]
    conversion = Conversion(modality, other, data.window, trained.name, uuid.uuid4())
    return Reader(trained.image, conversion, data.pictures, data.pictures or trained.resizes, limits, ct_offset)


def image(reader: Reader, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the image of a file, float32 0..1 [H, W, C], and notes on it.

    Raises UserError where the run's classifier cannot take the file.
    """
    scan = read.read(path, reader.conversion.source, reader.limits, reader.ct_offset)
    check(reader, scan)
    height, width, channels = reader.image
    if reader.decodes and scan.units == "display":
        return decode_input(path, height, channels), scan.notes
    modality, window = reader.conversion.source, reader.conversion.window
    ready = units.to_model(scan, modality, window, (height, width))[0]
    in_hu = modality == "ct" and window is not None
    shown = np.asarray(displayed(window, "ct", jnp.asarray(ready))) if in_hu else ready
    return np.repeat(shown[..., None], channels, -1).astype(np.float32), scan.notes


def check(reader: Reader, scan: Scan) -> None:
    """Raises UserError on volumes, on HU where the run knows none, and on sizes that the run does not resize."""
    count, height, width = scan.voxels.shape
    if count > 1:
        raise UserError(f"{count} slices: give PNG, JPEG or DICOM, one slice a file")
    units.check_units(scan, reader.conversion)
    if (height, width) != reader.image[:2] and not reader.resizes:
        raise UserError(
            f"{width} x {height} pixels, and the run knows {reader.image[1]} x {reader.image[0]}: resize it, or train "
            "with --task.preprocess.size"
        )


def decode_input(path: Path, size: int, channels: int) -> np.ndarray:
    """Returns a display picture [H, W, C], read as for training."""
    found = images.decode_picture(str(path), size, channels)
    if isinstance(found, str):
        raise UserError(found)
    return found.pixels.astype(np.float32) / np.float32(255)


def mask(reader: Reader, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Returns the true lesion from a PNG that is white inside: float32 0..1 [S, S], of the network's size."""
    if not path.is_file():
        raise UserError(f"{path}: no such mask: leave --masks, or give a PNG of that name")
    scan = raster.read(path, "mask", reader.limits)
    return resample.resize(resample.fit(scan.voxels[0], reader.image[:2], 0.0), size)
