"""PNG, JPEG, BMP and TIFF: display pictures in 0..1, without units of their own, for training and use alike.

Grey of 8 or 16 bits keeps its depth; of colour, read at 8 bits, use takes the luminance. A picture is turned upright as
its EXIF data say, and what is transparent is black, as the ground of a medical image is. GIF, WebP and JPEG 2000, which
hold no slices in practice, are refused, and so are compressed TIFF files, whose decoder is a stranger to its input.
"""

import io
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.scan import MAX_PIXELS, Conversion, Limits, Reader, Scan, check_slice

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # of Pillow
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its words name no file
DEPTHS = (8, 12, 16)  # bits that scanners and cameras fill of the 16 that a deep picture has
PHOTOMETRIC = 262  # the tag of TIFF; 0: white is zero, which Pillow heeds at 8 bits alone


class Picture(NamedTuple):
    """A picture upright and without transparency."""

    pixels: np.ndarray  # grey [h, w] of up to 16 bits, or colours uint8 [h, w, 3]
    full: int  # what counts as white
    notes: tuple[str, ...]

    @property
    def grey(self) -> np.ndarray:
        """Luminance in 0..1, float32 [h, w]."""
        from PIL.Image import fromarray

        values = self.pixels if self.pixels.ndim == 2 else np.asarray(fromarray(self.pixels).convert("L"))
        return values.astype(np.float32) / np.float32(self.full)

    @property
    def rgb(self) -> "Image":
        """The picture in RGB at 8 bits a colour; grey is repeated."""
        from PIL.Image import fromarray

        eight = self.pixels if self.pixels.dtype == np.uint8 else np.rint(self.grey * np.float32(255)).astype(np.uint8)
        return fromarray(eight).convert("RGB")


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """Returns the picture as one slice. Raises UserError on files that are not a single picture of a sensible size."""
    with opened(path, limits.pixels) as image:
        check_slice(image.height, image.width, limits)
        kind, picture = str(image.format).replace("MPO", "JPEG"), as_picture(image, path)
    written = partial(encode, kind, picture.full, picture.pixels.dtype)
    return Scan(picture.grey[None], "display", written, notes=picture.notes)


@contextmanager
def opened(path: str | Path, pixels: int = MAX_PIXELS) -> Iterator["Image"]:
    """Yields a picture of which nothing but the header is read yet.

    Raises UserError, with the reason alone, where it is of another kind, has more `pixels`, or fails while it is
    decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > pixels:
                raise UserError(f"{image.width} x {image.height} pixels, more than the {pixels} allowed")
            yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError("not a PNG, JPEG, BMP or TIFF image" if os.path.getsize(path) else "empty file") from None
    except Image.DecompressionBombError:
        raise UserError(f"more pixels than the {pixels} allowed") from None
    except Exception as error:  # a decoder fails in open-ended ways, and none may stop the run
        raise UserError("damaged or cut short: write it again") from error


def as_picture(image: "Image", path: str | Path) -> Picture:
    """Returns the picture in an opened file.

    Raises UserError on several frames, and on values that are no grey levels.
    """
    from PIL import Image, ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{frames} frames: give one picture a file")
    if image.format == "TIFF" and any(tile[0] != "raw" for tile in getattr(image, "tile", ())):
        raise UserError("a compressed TIFF: write it without compression, or as PNG")
    depth, colour = png_depth(path)
    if (depth, colour) == (16, 4):
        return deep(grey_and_alpha(path))
    inverse = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        if image.mode == "F" or inverse:
            raise UserError("its values are no grey levels with white as the most: give 8 or 16 bits")
        return deep(np.asarray(image))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    first = ["the first of its pictures counts"] * (frames > 1)
    return Picture(pixels, 255, (*first, *["its colours of 16 bits are read at 8"] * (depth > 8), *dim(pixels, 255)))


def deep(values: np.ndarray) -> Picture:
    """Returns a grey picture of up to 16 bits [h, w].

    White is the largest number of 8, 12 or 16 bits, the fewest that its values need. Raises UserError on values beyond
    16 bits.
    """
    least, most = int(values.min()), int(values.max())
    if least < 0 or most >= 2**16:
        raise UserError(f"values from {least} to {most}: give 0 to 65535")
    bits = next(bits for bits in DEPTHS if most < 2**bits)
    full = 2**bits - 1
    said = [f"its values need {bits} of 16 bits: {full} counts as white"] * (bits < 16 and most > least)
    return Picture(values.astype(np.uint16), full, (*said, *dim(values, full)))


def dim(values: np.ndarray, full: int) -> tuple[str, ...]:
    """Returns a sentence on a picture whose brightest value is far from white; one without contrast says nothing."""
    dark = values.min() < values.max() < full / 8
    return (f"its brightest value is less than an eighth of white, which is {full}",) if dark else ()


def png_depth(path: str | Path) -> tuple[int, int]:
    """Returns the bits of each colour and the kind of colours in a PNG's header; 0 and 0 of another file."""
    with open(path, "rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if head.startswith(BEGINNINGS[0]) and len(head) == 26 else (0, 0)


def grey_and_alpha(path: str | Path) -> np.ndarray:
    """Returns a PNG of grey and alpha of 16 bits each over black, uint16 values [h, w], upright.

    Pillow reads it at 8 bits. But each pixel has four bytes, as RGBA of 8 bits has, and is filtered alike.
    """
    from PIL import Image, ImageOps

    content = bytearray(Path(path).read_bytes())
    content[24:26] = b"\x08\x06"
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with Image.open(io.BytesIO(content), formats=("PNG",)) as bytewise:
        pairs = np.asarray(ImageOps.exif_transpose(bytewise)).view(">u2").astype(np.float64)
    return np.rint(pairs[..., 0] * pairs[..., 1] / 65535)


def encode(
    kind: str, full: int, dtype: np.dtype, conversion: Conversion, values: np.ndarray, deviation: bool
) -> list[bytes]:
    """Returns the bytes of a file of the same `kind` and depth whose `full` value is white; JPEG at quality 95."""
    from PIL import Image

    if deviation and kind in ("PNG", "TIFF"):
        full, dtype = 65535, np.dtype(np.uint16)  # a few hundredths would be a few grey levels
    levels = np.rint(np.clip(to_display(values[0], conversion, deviation), 0, 1) * full)
    file = io.BytesIO()
    Image.fromarray(levels.astype(dtype)).save(file, kind, quality=95)
    return [file.getvalue()]


def to_display(values: np.ndarray, conversion: Conversion, deviation: bool) -> np.ndarray:
    """Returns HU as a share of the run's window, and what is in 0..1 as it is."""
    if not conversion.hounsfield:
        return values
    assert conversion.window is not None
    low, high = conversion.window
    return (values - (0 if deviation else low)) / (high - low)


READER = Reader(("PNG", "JPEG", "BMP", "TIFF"), ENDINGS, lambda head: head.startswith(BEGINNINGS), read)
