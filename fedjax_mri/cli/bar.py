"""Shows how far a command is."""

import math
import sys
from typing import TYPE_CHECKING, Any

from fedjax_mri.run.line import TRAIN, Line, SegmentFigures, full_name

if TYPE_CHECKING:  # at run time it would bring JAX, which a command prepares first
    from fedjax_mri.run.observers import RunProgress


class Bar:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, unit: str = "round") -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True) if sys.stderr.isatty() else None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, line: str) -> None:
        """Prints a line that the bar does not overwrite."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def step(self, count: int = 1) -> None:
        """Counts more units as done."""
        if self._bar is not None:
            self._bar.update(count)

    def watch(self, progress: "RunProgress") -> None:
        """Shows the figures of a segment that has just ended."""
        shown = headline(progress.evaluated.line, progress.evaluated.headline)
        words = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if self._bar is None:
            print(f"round {progress.round}/{progress.rounds}: {words}", flush=True)
        else:
            self._bar.update(progress.round - self._bar.n)
            self._bar.set_postfix_str(words)


def headline(line: Line, figure: str) -> dict[str, float]:
    """The figures of a segment that fit on one line of the screen, with `figure` of the training and each test set.

    Those that do not exist are left out: of a segment to which no client came, and errors of images without a truth.
    """
    training = line.training if line.training and line.training.clients_per_second else SegmentFigures({})
    groups = {TRAIN: training.figures, **{name: test.pooled for name, test in line.tests.items()}}
    shown = {
        "clients/s": training.clients_per_second,
        "images/s": training.images_per_second,
        "useful": training.useful_share,
        "loss": training.figures.get("nll"),
        **line.privacy,
        **{full_name(name, figure): figures.get(figure) for name, figures in groups.items()},
    }
    return {name: value for name, value in shown.items() if value is not None and not math.isnan(value)}
