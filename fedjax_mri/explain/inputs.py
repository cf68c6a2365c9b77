"""A file as the image that a run's classifier was trained on: the same modality, size and scale of grey."""

import uuid
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_mri.convert import stream
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import grid, images, raster, read, units
from fedjax_mri.data.files.picture import Conversion, Limits, Picture
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.scanner import CT_WINDOW, show_ct
from fedjax_mri.explain.model import Trained


class Reader(NamedTuple):
    """How files become images of one run."""

    image: tuple[int, int, int]  # [H, W, C]
    conversion: Conversion  # of which the source's side is used: modality and window
    decodes: bool  # display pictures are read as in training, where that read files
    resizes: bool  # whether the run brings images of any size to its own
    limits: Limits


def reader(this: Trained, limits: Limits) -> Reader:
    """For files of the run's modality: the phantom says which; folders of pictures count as MR."""
    phantom, folder = isinstance(this.source, Phantom), isinstance(this.source, Folder)
    modality = this.source.image if phantom else "mr"
    other = {"ct": "mr", "mr": "ct"}[modality]
    conversion = Conversion(modality, other, CT_WINDOW if phantom else None, this.name, uuid.uuid4())
    return Reader(this.image, conversion, folder, folder or this.resizes, limits)


def image(reader: Reader, path: Path) -> np.ndarray:
    """float32 0..1 [H, W, C]. Raises UserError, with reason and remedy, where the run cannot take the file."""
    picture = read.read(path, reader.conversion.source, reader.limits)
    check(reader, picture)
    height, width, channels = reader.image
    if reader.decodes and picture.displayed:
        return decoded(path, height, channels)
    ready = stream.ready(picture.slices[0], picture.displayed, reader.conversion, (height, width))
    in_hu = reader.conversion.source == "ct" and reader.conversion.window is not None
    shown = np.asarray(show_ct(jnp.asarray(ready))) if in_hu else ready
    return np.repeat(shown[..., None], channels, -1).astype(np.float32)


def check(reader: Reader, picture: Picture) -> None:
    """Raises UserError on volumes, HU where none are known, and sizes that nothing brings to the run's."""
    count, height, width = picture.slices.shape
    if count > 1:
        raise UserError(f"{count} slices: give PNG, JPEG or DICOM, one slice a file")
    units.check_units(picture, reader.conversion)
    if (height, width) != reader.image[:2] and not reader.resizes:
        raise UserError(
            f"{width} x {height} pixels, and the run knows {reader.image[1]} x {reader.image[0]}: resize it, or train "
            "with --task.preprocess.size"
        )


def decoded(path: Path, size: int, channels: int) -> np.ndarray:
    """A display picture as it would have been read to be trained on."""
    found = images.decode(str(path), size, channels)
    if isinstance(found, str):
        raise UserError(found)
    return found.pixels.astype(np.float32) / np.float32(255)


def mask(reader: Reader, path: Path, size: tuple[int, int]) -> np.ndarray:
    """The true lesion from a PNG, white inside: float32 0..1 of the network's size [S, S]."""
    if not path.is_file():
        raise UserError(f"{path}: no such mask: leave --masks, or give a PNG of that name")
    picture = raster.read(path, "mask", reader.limits)
    return grid.resize(grid.fit(picture.slices[0], reader.image[:2], 0.0), size)
