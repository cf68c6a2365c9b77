"""Runs the slices of many scans through a model in batches of one size."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fedjax_mri.convert.translate import Translator
from fedjax_mri.data.files import resample, units
from fedjax_mri.data.files.scan import Conversion, Item, Scan

Model = Callable[[np.ndarray], list[np.ndarray]]  # [B, H, W] -> the image made, perhaps its deviation: [B, H, W]


class Slice(NamedTuple):
    """One slice of a scan, and where it belongs."""

    item: Item
    scan: Scan
    image: np.ndarray  # float32 [h, w]
    last: bool  # of its scan


def translate_scans(
    scans: Iterable[tuple[Item, Scan]],
    model: Model,
    conversion: Conversion,
    size: tuple[int, int],
    batch: int,
) -> Iterator[tuple[Item, Scan, list[np.ndarray]]]:
    """Yields each scan as soon as its last slice is made, with what the model makes of it, each [D, h, w]."""
    rows: list[list[np.ndarray]] = []
    for group in batches(slices(scans), batch):
        for one, *made in zip(group, *model(stacked(group, conversion, size, batch))):
            rows.append([resample.unfit(image, one.image.shape) for image in made])
            if one.last:
                yield one.item, one.scan, [np.stack(column) for column in zip(*rows)]
                rows = []


def slices(scans: Iterable[tuple[Item, Scan]]) -> Iterator[Slice]:
    """All slices of all scans, in order."""
    for item, scan in scans:
        for place, image in enumerate(scan.voxels, 1):
            yield Slice(item, scan, image, place == len(scan.voxels))


def batches(items: Iterator[Slice], size: int) -> Iterator[list[Slice]]:
    """The items `size` at a time; the last batch may have fewer."""
    while group := list(itertools.islice(items, size)):
        yield group


def stacked(group: list[Slice], conversion: Conversion, size: tuple[int, int], batch: int) -> np.ndarray:
    """A batch of slices as the model takes them, [batch, H, W]; the last is repeated where there are fewer."""
    images = [model_input(one.image, one.scan.units == "display", conversion, size) for one in group]
    return np.stack(images + images[-1:] * (batch - len(group)))


def model_input(image: np.ndarray, displayed: bool, conversion: Conversion, size: tuple[int, int]) -> np.ndarray:
    """A slice [h, w] in the file's units as the model takes it, [H, W]."""
    fitted = resample.fit(image, size, units.background(displayed, conversion))
    return units.to_model(fitted, displayed, conversion)


def batch_model(translator: Translator, conversion: Conversion, samples: int) -> Model:
    """A model that gives the translator's image, or the mean of `samples` draws and their deviation (over n - 1)."""

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
