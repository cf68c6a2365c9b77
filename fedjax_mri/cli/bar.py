"""Shows how far a command is."""

import sys
from typing import TYPE_CHECKING, Any

from fedjax_mri.run.line import progress_line, progress_words

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
        if self._bar is None:
            print(progress_line(progress), flush=True)
        else:
            self._bar.update(progress.round - self._bar.n)
            self._bar.set_postfix_str(progress_words(progress.evaluated.line, progress.evaluated.headline))
