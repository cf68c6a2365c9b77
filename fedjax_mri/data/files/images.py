"""Pictures decoded to squares of one size, with what tells their copies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import duplicates

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 2**26  # 67 megapixels; the largest mammograms have 30. A file of 100 kB can claim any number


class Decoded(NamedTuple):
    """One decoded image, and what tells its copies."""

    pixels: np.ndarray  # uint8 [size, size, channels]
    digest: int
    hash: int
    mirrored: int  # the hash of the mirror image


def decode(path: str, size: int, channels: int) -> Decoded | str:
    """One image, its proportions kept, in a black square; or the reason why it cannot be decoded."""
    from PIL import Image, ImageOps

    try:
        with opened(path) as image:
            rgb = _eight_bit(image)
            mode = "L" if channels == 1 else "RGB"
            square = ImageOps.pad(rgb.convert(mode), (size, size), Image.Resampling.LANCZOS)
            pixels = np.asarray(square).reshape(size, size, channels)
            return Decoded(pixels, duplicates.exact(rgb), *duplicates.perceptual_pair(rgb))
    except UserError as error:
        return str(error)


@contextmanager
def opened(path: str | Path, pixels: int = MAX_PIXELS) -> Iterator["Image"]:
    """A PNG or JPEG of which nothing but the header is read yet.

    Raises UserError, with the reason alone, where it is neither, has more `pixels`, or fails while it is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > pixels:
                raise UserError(f"{image.width} x {image.height} pixels, more than the {pixels} allowed")
            yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError("not a PNG or JPEG image" if os.path.getsize(path) else "empty file") from None
    except Exception as error:  # a decoder fails in open-ended ways, and none may stop the run
        raise UserError(" ".join(f"{type(error).__name__}: {error}".split())) from error


def printable(path: Path) -> str:
    """A path as one line of text that any file or terminal takes, whatever its name is made of."""
    text = str(path).encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _eight_bit(image: "Image") -> "Image":
    """The image as RGB; 16-bit scans, whose intensities have no fixed unit, are scaled to their own maximum."""
    from PIL.Image import fromarray

    if image.mode[0] in "IF":
        values = np.asarray(image, np.float32)
        image = fromarray((values * (255 / max(values.max(), 1))).astype(np.uint8))
    return image.convert("RGB")
