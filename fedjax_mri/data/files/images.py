"""Image files under class folders, decoded in parallel; what cannot be decoded is set aside and the rest goes on."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import duplicates

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**26  # 67 megapixels; the largest mammograms have 30. A file of 100 kB can claim any number


class File(NamedTuple):
    """An image root/split/label/name."""

    path: Path
    split: str  # the folders between root and class, "" where there are none
    label: str  # name of the class folder


class Images(NamedTuple):
    """The n files that could be decoded, and those that could not."""

    files: list[File]
    pixels: np.ndarray  # uint8 [n, size, size, channels]
    digests: np.ndarray  # uint64 [n], equal for exact copies
    hashes: np.ndarray  # uint64 [n], near for near copies
    quarantined: list[tuple[str, str]]  # path, reason


class Decoded(NamedTuple):
    """One decoded image, and what tells its copies."""

    pixels: np.ndarray  # uint8 [size, size, channels]
    digest: int
    hash: int
    mirrored: int  # the hash of the mirror image


def find(root: str) -> list[File]:
    """Every image under root, in order of path; hidden files and folders are passed over.

    Raises UserError for a missing root, a folder without images, and images that lie outside of a class folder.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise UserError(f"{root}: no such folder: check the path")
    files = []
    for folder, below, names in os.walk(top, onerror=_refuse, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        images = sorted(name for name in names if _is_image(name))
        _check_level(Path(folder), below, images, is_root=folder == str(top))
        *split, label = Path(folder).relative_to(top).parts or ("",)
        files += [File(Path(folder, name), "/".join(split), label) for name in images]
    return files


def read(files: list[File], size: int, channels: int) -> Images:
    """Decodes all files to size x size. Raises UserError for a bad size, or where not one file can be decoded."""
    import grain
    from PIL import Image

    if size < 1 or channels not in (1, 3):
        raise UserError(f"images of size {size} with {channels} channels: size must be 1 or more, channels 1 or 3")
    threads = grain.ReadOptions(num_threads=min(16, os.cpu_count() or 1), prefetch_buffer_size=64)
    dataset = grain.MapDataset.source([str(file.path) for file in files])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` refuses what is too large
        results = list(dataset.map(partial(decode, size=size, channels=channels)).to_iter_dataset(threads))
    return _sort_out(files, results)


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


def _sort_out(files: list[File], results: list[Decoded | str]) -> Images:
    """Images and quarantine from the results [n] of decoding files [n]."""
    bad = [(printable(file.path), result) for file, result in zip(files, results) if isinstance(result, str)]
    good = [(file, result) for file, result in zip(files, results) if isinstance(result, Decoded)]
    if not good:
        raise UserError(f"none of {len(files)} images could be read, such as {bad[0][0]} ({bad[0][1]}): replace them")
    kept, decoded = zip(*good)
    pixels, digests, hashes, _ = zip(*decoded)
    return Images(list(kept), np.stack(pixels), np.array(digests, np.uint64), np.array(hashes, np.uint64), bad)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def _check_level(folder: Path, below: list[str], images: list[str], is_root: bool) -> None:
    if not images and not below:
        raise UserError(f"{folder}: no images ({', '.join(EXTENSIONS)}) in this folder: add some or remove it")
    if images and (below or is_root):
        raise UserError(f"{folder / images[0]}: this image is in no class folder: move it into one, or away")


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}: make the folder readable")
