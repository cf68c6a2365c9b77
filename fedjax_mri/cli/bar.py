"""Progress: a bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping
from typing import Any


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
        """A line that the bar does not overwrite."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def step(self) -> None:
        """One unit is done."""
        if self._bar is not None:
            self._bar.update()

    def watch(self, progress: Any) -> None:
        """After each segment."""
        shown = headline(progress.figures, progress.headline)
        words = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if self._bar is None:
            print(f"round {progress.round}/{progress.rounds}: {words}", flush=True)
        else:
            self._bar.update(progress.round - self._bar.n)
            self._bar.set_postfix_str(words)


def headline(figures: Mapping[str, float], first: str) -> dict[str, float]:
    """What fits on one line, with the figure `first` of each test set."""
    wanted = {
        "clients_per_second": "clients/s",
        "images_per_second": "images/s",
        "useful_share": "useful",
        "train/nll": "loss",
    }
    chosen = {short: figures[name] for name, short in wanted.items() if name in figures}
    return chosen | {name: value for name, value in figures.items() if name.endswith(f"/{first}")}
