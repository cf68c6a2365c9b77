"""A translator that needs no training, and files of each kind."""

import pathlib
from collections.abc import Sequence

import numpy as np

from fedjax_mri.convert import command
from fedjax_mri.convert.translate import Translator
from fedjax_mri.data.files import discover

WINDOW = (-1000.0, 1000.0)
SIZE = 16


def linear(to: str, source: np.ndarray, sample: int | None) -> np.ndarray:
    """MR is the share of the window, upside down; CT the way back. Draws differ by 20 HU or 1/100."""
    assert source.shape[1:] == (SIZE, SIZE, 1) and source.dtype == np.float32
    if to == "mr":
        return 0.5 - source / 2000 + (sample or 0) / 100
    return 1000 - 2000 * source + 20 * (sample or 0)


def translator(window: tuple[float, float] | None = WINDOW, samples: int = 3) -> Translator:
    return Translator((SIZE, SIZE, 1), window, "linear", linear, samples)


def run(
    inputs: Sequence[pathlib.Path], out: pathlib.Path, to: str = "mr", *, fake: Translator | None = None, **options
) -> tuple[tuple[int, int], list[str]]:
    """(converted, refused), and what was said."""
    said: list[str] = []
    job = command.prepare(fake or translator(), to, out, **options)
    files, lines = discover.find(inputs, out)
    said += lines
    return command.convert(job, files, said.append, lambda count: None), said
