"""Pictures decoded to squares of one size, with what tells their copies."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import duplicates
from fedjax_mri.data.files import raster


class DecodedImage(NamedTuple):
    """One decoded image, and what tells its copies."""

    pixels: np.ndarray  # uint8 [size, size, channels]
    digest: int
    hash: int
    mirrored: int  # the hash of the mirror image
    notes: tuple[str, ...] = ()  # what is doubtful about the file


def decode_picture(path: str, size: int, channels: int) -> DecodedImage | str:
    """Returns one image, its proportions kept, in a black square; or the reason why it cannot be decoded."""
    from PIL import Image, ImageOps

    try:
        with raster.opened(path) as image:
            picture = raster.as_picture(image, path)
            rgb = picture.rgb
            mode = "L" if channels == 1 else "RGB"
            square = ImageOps.pad(rgb.convert(mode), (size, size), Image.Resampling.LANCZOS)
            pixels = np.asarray(square).reshape(size, size, channels)
            return DecodedImage(pixels, duplicates.exact(rgb), *duplicates.perceptual_pair(rgb), picture.notes)
    except UserError as error:
        return str(error)


def printable(path: Path) -> str:
    """Returns a path as one line of text that any file or terminal takes, whatever its name is made of."""
    text = str(path).encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)
