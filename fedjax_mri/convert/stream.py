"""Runs the slices of many scans through a model in batches of one size."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fedjax_mri.convert.translate import Translator
from fedjax_mri.data.files import resample, units
from fedjax_mri.data.files.scan import Conversion, Item, Scan

Model = Callable[[np.ndarray], list[np.ndarray]]  # [B, H, W] -> the image made, perhaps its deviation: [B, H, W]


class PreparedScan(NamedTuple):
    """A scan as the model takes it, without its own voxels, which may be large, and what writing a result needs."""

    slices: np.ndarray  # float32 [D, H, W]
    shape: tuple[int, int]  # [h, w] of the scan's own slices
    pixel: tuple[float, float]  # mm between its rows and columns
    encode: Callable[[Conversion, np.ndarray, bool], list[bytes]]
    notes: tuple[str, ...]


class Slice(NamedTuple):
    """One slice as the model takes it, and where it belongs."""

    item: Item
    scan: PreparedScan
    place: int  # in its scan


def prepare_scan(scan: Scan, conversion: Conversion, size: tuple[int, int]) -> PreparedScan:
    """Returns a scan as a model of this size takes it."""
    slices = units.to_model(scan, conversion.source, conversion.window, size)
    _, height, width = scan.voxels.shape
    return PreparedScan(slices, (height, width), units.pixel(scan), scan.encode, scan.notes)


def translate_scans(
    scans: Iterable[tuple[Item, PreparedScan]], model: Model, batch: int
) -> Iterator[tuple[Item, PreparedScan, list[np.ndarray]]]:
    """Yields each scan as soon as its last slice is made, with what the model makes of it, each [D, h, w]."""
    results: list[np.ndarray] = []
    for group in batches(slices(scans), batch):
        images = [one.scan.slices[one.place] for one in group]
        made = model(np.stack(images + images[-1:] * (batch - len(group))))
        for at, (item, scan, place) in enumerate(group):
            results = results or [np.empty((len(scan.slices), *scan.shape), np.float32) for _ in made]
            for result, image in zip(results, made):
                result[place] = resample.unfit(image[at], scan.shape, scan.pixel)
            if place == len(scan.slices) - 1:
                whole, results = results, []
                yield item, scan, whole
                del whole  # before the next scan is read


def slices(scans: Iterable[tuple[Item, PreparedScan]]) -> Iterator[Slice]:
    """Yields all slices of all scans, in order."""
    for item, scan in scans:
        for place in range(len(scan.slices)):
            yield Slice(item, scan, place)


def batches(items: Iterator[Slice], size: int) -> Iterator[list[Slice]]:
    """Yields the items `size` at a time; the last batch may have fewer."""
    while group := list(itertools.islice(items, size)):
        yield group


def batch_model(translator: Translator, conversion: Conversion, samples: int) -> Model:
    """Returns a model that gives the translator's image, or the mean of `samples` draws and their deviation.

    The deviation is over n - 1.
    """

    def draw(x: np.ndarray, sample: int | None) -> np.ndarray:
        made = translator.draw(conversion.to, x[..., None], sample)[..., 0]
        return units.within_bounds(np.asarray(made, np.float32), conversion)

    def spread(x: np.ndarray) -> list[np.ndarray]:
        mean, squares = draw(x, 0), np.zeros_like(x)  # Welford's recursion
        for sample in range(1, samples):
            image = draw(x, sample)
            before, mean = mean, mean + (image - mean) / np.float32(sample + 1)
            squares += (image - before) * (image - mean)
        return [mean, np.sqrt(squares / np.float32(samples - 1))]

    return spread if samples else lambda x: [draw(x, None)]
