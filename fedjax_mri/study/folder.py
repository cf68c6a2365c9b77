"""The files of a study: what it is, what became of each of its cells, and a table of all.

STUDY/study.json        the base, the axes, the ids of all cells
STUDY/cells/ID.json     one finished cell: where it lies, its config, its lines as in metrics.jsonl
STUDY/failures/ID.txt   why a cell failed when it was last tried, with the traceback
STUDY/runs/ID/          run folders of cells that had a program of their own
STUDY/table.csv         a row for each cell and evaluation
STUDY/shard-N-of-M      held by the process that trains this shard, see run/lock.py
"""

import csv
import io
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.run import config as configs
from fedjax_mri.run import identity, lock, runfolder
from fedjax_mri.run.line import LogEntry, flat, parse, with_nans, with_nulls
from fedjax_mri.study.study import Cell, Study


class CellResult(NamedTuple):
    """What a finished cell of a study has measured."""

    id: str
    where: dict[str, Any]  # axis -> its value there
    synthetic: bool  # whether its data are
    history: list[LogEntry]


class Failure(NamedTuple):
    """Why a cell has no result."""

    reason: str  # one line
    traceback: str = ""


def refuse_other(out: pathlib.Path, given: Study, cells: Sequence[Cell]) -> None:
    """Raises UserError, naming what differs, when the folder holds a run, or results of another study."""
    if (out / "config.json").exists():
        raise UserError(f"{out}: holds a run, not a study; choose another --out")
    differing = differences(out, given, cells)
    if differing and has_results(out):
        raise UserError(f"{out}: holds another study ({'; '.join(differing)}); choose another --out")


def refuse_running(out: pathlib.Path) -> None:
    """Raises UserError when a process trains a shard of the study."""
    for held in sorted(out.glob("shard-*.json")):  # or has been killed while it did
        with lock.hold(out, name=held.stem):
            pass


def differences(out: pathlib.Path, given: Study, cells: Sequence[Cell]) -> list[str]:
    """Returns in what a study differs from the one that the folder is of; nothing if it is of none."""
    if not (out / "study.json").exists():
        return []
    before, axes = runfolder.read_json(out / "study.json"), list(cells[0].where)
    differing = identity.differences(before["base"], given.base, ignored=())
    return differing + ([f"axes: {before['axes']} -> {axes}"] if before["axes"] != axes else [])


def has_results(out: pathlib.Path) -> bool:
    """Returns whether a cell has finished."""
    return any((out / "cells").glob("*.json"))


def claim(out: pathlib.Path, given: Study, cells: Sequence[Cell]) -> None:
    """Makes the folder this study's; one in which no cell has finished may have been another's.

    Raises UserError when it is another's.
    """
    refuse_other(out, given, cells)
    if differences(out, given, cells):
        shutil.rmtree(out / "failures", ignore_errors=True)
    (out / "cells").mkdir(parents=True, exist_ok=True)
    content = {"base": configs.to_dict(given.base), "axes": list(cells[0].where), "cells": [cell.id for cell in cells]}
    disk.write_json(out / "study.json", content)


def cell_path(out: pathlib.Path, cell: str) -> pathlib.Path:
    """Returns the file of a finished cell."""
    return out / "cells" / f"{cell}.json"


def failure_path(out: pathlib.Path, cell: str) -> pathlib.Path:
    """Returns the file of a failed cell."""
    return out / "failures" / f"{cell}.txt"


def save(out: pathlib.Path, cell: Cell, history: Sequence[LogEntry], synthetic: bool, plan: Plan) -> None:
    """Writes the result of a finished cell; `finished_cells` reads it."""
    content = {
        "id": cell.id,
        "where": cell.where,
        "config": configs.to_dict(cell.config),
        "environment": runfolder.environment(plan),
        "synthetic": synthetic,
        "history": [with_nulls(flat(line)) for line in history],
    }
    disk.write_json(cell_path(out, cell.id), content)
    failure_path(out, cell.id).unlink(missing_ok=True)


def save_failure(out: pathlib.Path, cell: Cell, failure: Failure) -> None:
    """Writes why a cell failed."""
    path = failure_path(out, cell.id)
    path.parent.mkdir(exist_ok=True)
    where = "".join(f"{axis}: {value}\n" for axis, value in cell.where.items())
    disk.write_text(path, f"{failure.reason}\n\n{where}\n{failure.traceback}")


def finished_cells(out: pathlib.Path) -> list[CellResult]:
    """Returns the results of a study's finished cells, in its order."""
    paths = [cell_path(out, cell) for cell in runfolder.read_json(out / "study.json")["cells"]]
    found = [runfolder.read_json(one) for one in paths if one.exists()]
    return [
        CellResult(one["id"], one["where"], one["synthetic"], [parse(with_nans(values)) for values in one["history"]])
        for one in found
    ]


def write_table(out: pathlib.Path) -> pathlib.Path:
    """Writes table.csv: a row of axes, round and figures for each evaluation of each finished cell."""
    lines = [{"cell": one.id, **one.where, **flat(line)} for one in finished_cells(out) for line in one.history]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    disk.write_text(out / "table.csv", text.getvalue())
    return out / "table.csv"
