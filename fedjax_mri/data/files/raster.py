"""PNG and JPEG: display pictures in 0..1, without units of their own; grey of 8 or 16 bits, colour by its luminance."""

import io
from functools import partial
from pathlib import Path

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.images import opened
from fedjax_mri.data.files.scan import Conversion, Limits, Reader, Scan, check_slice


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """The picture as one slice. Raises UserError on files that are not a single picture of a sensible size."""
    with opened(path, limits.pixels) as image:
        check_slice(image.height, image.width, limits)
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise UserError(f"{frames} frames: give one picture a file")
        deep = image.mode.startswith("I")
        grey = np.asarray(image if deep else image.convert("L"), np.float32)
        full = 65535 if deep else 255
        return Scan(grey[None] / np.float32(full), "display", partial(encode, str(image.format), full))


def encode(kind: str, full: int, conversion: Conversion, values: np.ndarray, deviation: bool) -> list[bytes]:
    """The bytes of a file of the same `kind` whose `full` value is the top of the display; JPEG at quality 95."""
    from PIL import Image

    if deviation and kind == "PNG":
        full = 65535  # a few hundredths would be a few grey levels
    levels = np.rint(np.clip(displayed(values[0], conversion, deviation), 0, 1) * full)
    file = io.BytesIO()
    Image.fromarray(levels.astype(np.uint16 if full > 255 else np.uint8)).save(file, kind, quality=95)
    return [file.getvalue()]


def displayed(values: np.ndarray, conversion: Conversion, deviation: bool) -> np.ndarray:
    """HU as a share of the run's window; what is in 0..1 as it is."""
    if not conversion.hounsfield:
        return values
    assert conversion.window is not None
    low, high = conversion.window
    return (values - (0 if deviation else low)) / (high - low)


READER = Reader(
    ("PNG", "JPEG"), (".png", ".jpg", ".jpeg"), lambda head: head.startswith((b"\x89PNG", b"\xff\xd8\xff")), read
)
