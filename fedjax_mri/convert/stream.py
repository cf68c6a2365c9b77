"""Slices of many files through the model in batches of one size, and back into files."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fedjax_mri.convert.translate import Translator
from fedjax_mri.data.files import grid, units
from fedjax_mri.data.files.discover import File
from fedjax_mri.data.files.picture import Conversion, Picture

Model = Callable[[np.ndarray], list[np.ndarray]]  # [B, H, W] -> what is made of it, each [B, H, W]


class Slice(NamedTuple):
    """One slice on its way."""

    file: File
    picture: Picture
    image: np.ndarray  # float32 [h, w]
    last: bool  # of its picture


def translated(
    pictures: Iterable[tuple[File, Picture]],
    model: Model,
    conversion: Conversion,
    size: tuple[int, int],
    batch: int,
) -> Iterator[tuple[File, Picture, list[np.ndarray]]]:
    """Each picture as soon as its last slice is made, with what the model makes of it, each [D, h, w]."""
    rows: list[list[np.ndarray]] = []
    for group in groups(slices(pictures), batch):
        for one, *made in zip(group, *model(stacked(group, conversion, size, batch))):
            rows.append([grid.back(image, one.image.shape) for image in made])
            if one.last:
                yield one.file, one.picture, [np.stack(column) for column in zip(*rows)]
                rows = []


def slices(pictures: Iterable[tuple[File, Picture]]) -> Iterator[Slice]:
    """All slices in order."""
    for file, picture in pictures:
        for place, image in enumerate(picture.slices, 1):
            yield Slice(file, picture, image, place == len(picture.slices))


def groups(items: Iterator[Slice], size: int) -> Iterator[list[Slice]]:
    """As many at a time, the last group perhaps fewer."""
    while group := list(itertools.islice(items, size)):
        yield group


def stacked(group: list[Slice], conversion: Conversion, size: tuple[int, int], batch: int) -> np.ndarray:
    """Slices as the model wants them, [batch, H, W]; the last repeated where there are fewer."""
    made = [ready(one.image, one.picture.displayed, conversion, size) for one in group]
    return np.stack(made + made[-1:] * (batch - len(group)))


def ready(image: np.ndarray, displayed: bool, conversion: Conversion, size: tuple[int, int]) -> np.ndarray:
    """A slice [h, w] in the file's units as the model wants it, [H, W]."""
    fitted = grid.fit(image, size, units.background(displayed, conversion))
    return units.entering(fitted, displayed, conversion)


def model(translator: Translator, conversion: Conversion, samples: int) -> Model:
    """The model's own image; or the mean of `samples` draws, and their standard deviation (n - 1)."""

    def draw(x: np.ndarray, sample: int | None) -> np.ndarray:
        made = translator.draw(conversion.to, x[..., None], sample)[..., 0]
        return units.leaving(np.asarray(made, np.float32), conversion)

    def spread(x: np.ndarray) -> list[np.ndarray]:
        mean, squares = draw(x, 0), np.zeros_like(x)  # Welford's recursion
        for sample in range(1, samples):
            image = draw(x, sample)
            before, mean = mean, mean + (image - mean) / np.float32(sample + 1)
            squares += (image - before) * (image - mean)
        return [mean, np.sqrt(squares / np.float32(samples - 1))]

    return spread if samples else lambda x: [draw(x, None)]
