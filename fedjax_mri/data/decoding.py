"""Files or records decoded by several threads into one array of images, in memory or in a file of the user's cache."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.core import cache
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import duplicates
from fedjax_mri.data.files.images import DecodedImage

FORMAT = 2  # of the cache; raise it when decoding gives other pixels
PIXELS, INDEX = "pixels", "index.npz"  # its files


class DecodedSource(NamedTuple):
    """What one file, series or record gave."""

    images: Sequence[DecodedImage] = ()
    reason: str = ""  # why there are no images
    kind: str = ""  # "ct" or "mr"; "" for pictures
    label: str = ""  # of records, which carry it
    patient: str = ""
    site: str = ""
    notes: tuple[str, ...] = ()
    extent: tuple[float, ...] = ()  # mm from end to end of a scan along each axis; () where not known


class Images(NamedTuple):
    """The n images of several sources, each a file, a series or a record."""

    pixels: np.ndarray  # uint8 [n, size, size, channels]; memory-mapped where it is kept in the cache
    source: np.ndarray  # int64 [n], which of the sources each image comes from
    digests: np.ndarray  # uint64 [n], equal for exact copies
    hashes: np.ndarray  # uint64 [n, 2], near for near copies; the second is that of the mirror image
    kinds: np.ndarray  # str [sources], "ct" or "mr"; "" for pictures and for what gave no image
    labels: np.ndarray  # str [sources], of records
    patients: np.ndarray  # str [sources]; "" where not known
    sites: np.ndarray  # str [sources], their hospitals; "" where not known
    extents: np.ndarray  # float64 [sources, 3], mm from end to end along each axis; 0 where not known
    quarantined: list[tuple[int, str]]  # a source, and the reason why it gave no image
    notes: dict[str, int]  # what was noticed, and of how many sources

    def groups(self) -> np.ndarray:
        """Returns the duplicate group [n] of each image; those of one source are together."""
        return duplicates.group(self.hashes[:, 0], self.digests, mirrored=self.hashes[:, 1])


def decode_sources(
    sources: Sequence[Any], read: Callable[[Any], DecodedSource], names: Sequence[str], facts: Any = None
) -> Images:
    """Returns the images that `read` gives of each source.

    Raises UserError, with one of the sources' `names`, where there is not one image.

    `facts`: text, numbers and lists of them that decide what the images are, such as settings and the sizes and times
    of files. With them the images are kept in the user's cache folder, and found there the next time.
    """
    if facts is None:
        pixels: list[np.ndarray] = []
        index = gather(results(sources, read), pixels.append)
        return images_of_index(np.stack(pixels) if pixels else np.empty(0), index, names)
    folder = cache.folder() / "images" / hashlib.sha256(json.dumps([FORMAT, facts]).encode()).hexdigest()[:20]
    try:
        if not folder.exists():
            build(folder, results(sources, read))
        with np.load(folder / INDEX) as file:
            index = dict(file)
        mapped = np.memmap(folder / PIXELS, index["dtype"].item(), "r", shape=tuple(index["shape"]))
        return images_of_index(mapped, index, names)
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}: free some space, or set XDG_CACHE_HOME to another disk"
        ) from error


def build(folder: Path, found: Iterator[DecodedSource]) -> None:
    """Writes what was found to a folder of the cache, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with (draft / PIXELS).open("wb") as file:
            index = gather(found, lambda pixels: file.write(np.ascontiguousarray(pixels).data))
        np.savez(draft / INDEX, allow_pickle=False, **index)
        with contextlib.suppress(FileExistsError):  # another process was first
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def results(sources: Sequence[Any], read: Callable[[Any], DecodedSource]) -> Iterator[DecodedSource]:
    """Yields what was found in each source, in order, read by several threads; a terminal shows how far it is."""
    import grain
    from PIL import Image
    from tqdm import tqdm

    threads = grain.ReadOptions(num_threads=min(16, os.cpu_count() or 1), prefetch_buffer_size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused
        found = grain.MapDataset.source(sources).map(read).to_iter_dataset(threads)
        yield from tqdm(found, "reading images", len(sources), leave=False, disable=None, dynamic_ncols=True)


def gather(found: Iterator[DecodedSource], keep: Callable[[np.ndarray], object]) -> dict[str, np.ndarray]:
    """Returns all that is to be known of the images, as arrays.

    The pixels themselves are given to `keep`, one by one.
    """
    rows: list[tuple[int, int, int, int]] = []
    sources: list[tuple[str, ...]] = []
    extents: list[tuple[float, ...]] = []
    bad: list[tuple[str, str]] = []
    notes: Counter[str] = Counter()
    shape, dtype = (0,), np.dtype(np.uint8)
    for number, one in enumerate(found):
        sources.append((one.kind, one.label, one.patient, one.site))
        extents.append(one.extent or (0.0, 0.0, 0.0))
        notes.update(one.notes)
        if one.reason:
            bad.append((str(number), one.reason))
        for image in one.images:
            keep(image.pixels)
            shape, dtype = image.pixels.shape, image.pixels.dtype
            rows.append((number, image.digest, image.hash, image.mirrored))
    return {
        "rows": np.array(rows, np.uint64).reshape(-1, 4),
        "sources": np.array(sources, str).reshape(-1, 4),
        "extents": np.array(extents).reshape(-1, 3),
        "bad": np.array(bad, str).reshape(-1, 2),
        "notes": np.array([(note, str(count)) for note, count in notes.items()], str).reshape(-1, 2),
        "shape": np.array((len(rows), *shape)),
        "dtype": np.array(dtype.str),
    }


def images_of_index(pixels: np.ndarray, index: Mapping[str, np.ndarray], names: Sequence[str]) -> Images:
    """Returns the images with these pixels [n, ...] and what `gather` knows of them.

    Raises UserError where there are none.
    """
    number, digests, hashed, mirrored = index["rows"].T
    quarantined = [(int(source), reason) for source, reason in index["bad"].tolist()]
    if len(number) == 0:
        why = f", such as {names[quarantined[0][0]]} ({quarantined[0][1]})" if quarantined else ""
        raise UserError(f"none of {len(names)} images could be read{why}: replace them")
    notes = {note: int(count) for note, count in index["notes"].tolist()}
    kinds, labels, patients, sites = index["sources"].T
    source, hashes = number.astype(np.int64), np.stack([hashed, mirrored], 1)
    extents = index["extents"]
    return Images(pixels, source, digests, hashes, kinds, labels, patients, sites, extents, quarantined, notes)
