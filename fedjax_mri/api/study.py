"""A study in Python: train its cells, and read their figures as columns."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedjax_mri.core import environment
from fedjax_mri.core.errors import UserError
from fedjax_mri.report import study as report
from fedjax_mri.run.line import flat
from fedjax_mri.study import folder as study_folder
from fedjax_mri.study import study, sweep
from fedjax_mri.study.study import Study


def load_study(path: str | pathlib.Path) -> Study:
    """Returns the study of a file. Raises UserError where it has none."""
    return study.load(pathlib.Path(path))


def train_study(given: Study, out: str | pathlib.Path, say: Callable[[str], None] = print) -> "StudyResults":
    """Trains the cells of a study that are not finished in the folder `out`, and returns the results.

    Ctrl-C raises KeyboardInterrupt; finished cells are kept. Raises UserError on a bad study, a folder that holds
    another one, or cells that failed.
    """
    if not isinstance(given, Study):
        raise UserError(f"train_study: {type(given).__name__} is no Study; give Study(base=config, axes={{...}})")
    environment.prepare_jax()
    try:
        failures = sweep.run(given, pathlib.Path(out), say=say)
    except sweep.Stopped as stopped:
        raise KeyboardInterrupt(stopped.signal) from None
    if failures:
        raise UserError(f"{out}: {len(failures)} of its cells failed, the first: {next(iter(failures.values()))}")
    return StudyResults(pathlib.Path(out))


@dataclass(frozen=True)
class StudyResults:
    """The finished cells of a study, in its folder."""

    folder: pathlib.Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", pathlib.Path(self.folder))

    def last(self) -> dict[str, np.ndarray]:
        """Returns the last line of each cell as columns [cells]: a column for each axis and each figure.

        A figure is nan where a cell has not measured it.
        """
        cells = study_folder.finished_cells(self.folder)
        rows: list[dict[str, Any]] = [{**cell.where, **flat(cell.history[-1])} for cell in cells]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}

    def report(self) -> pathlib.Path:
        """Writes report.html, the figures and table.csv into the folder, and returns the path of the report."""
        return report.write(self.folder)
