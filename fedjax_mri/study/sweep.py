"""Trains the cells of a study in as few programs as possible, and keeps a file for each cell and a table of all.

STUDY/study.json        the base, the axes, the ids of all cells
STUDY/cells/ID.json     one finished cell: where it lies, its config, its lines as in metrics.jsonl
STUDY/runs/ID/          run folders of cells that had a program of their own
STUDY/table.csv         a row for each cell and evaluation
"""

import csv
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError, brief
from fedjax_mri.core.failures import one_line
from fedjax_mri.data.contract import Federation
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, group, results, runfolder
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.line import Line, flat, parse
from fedjax_mri.run.prepare import Say, has_conclusion
from fedjax_mri.study import study
from fedjax_mri.study.study import Cell, Study


class CellResult(NamedTuple):
    """What a finished cell of a study has measured."""

    id: str
    where: dict[str, Any]  # axis -> its value there
    synthetic: bool  # whether its data are
    history: list[Line]


Build = Callable[[Experiment], Federation]
Failures = dict[str, str]  # id of a cell -> why


def run(given: Study, out: pathlib.Path, shard: tuple[int, int] = (0, 1), say: Say = print) -> Failures:
    """Trains the cells of one of several shards (number, count) that are not finished, and writes the table.

    Raises UserError on a bad study, and where `out` holds another one.
    """
    cells = study.cells(given)
    claim(out, given, cells)
    mine = cells[shard[0] :: shard[1]]
    todo = [cell for cell in mine if not cell_path(out, cell.id).exists()]
    batches = list(grouped(lambda cell: group.program_settings(cell.config), todo))
    say(f"{len(mine)} cells, {len(mine) - len(todo)} of them finished; {len(batches)} kinds of program for the others")
    failures, build = Failures(), cached_federations()
    for batch in batches:
        failures |= failures_of(batch, out, partial(train_cells, batch, out, build, say))
    for cell in (cell for cell in todo if cell.id in failures):
        say(f"failed: {cell.id} ({study.describe(cell)}): {failures[cell.id]}")
    write_table(out)
    return failures


def shard(words: str) -> tuple[int, int]:
    """The number and count that "0/4" stands for. Raises UserError where there is no such shard."""
    number, _, count = words.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 0 <= int(number) < int(count)):
        raise UserError(f"--shard {words}: give NUMBER/COUNT, the number from 0 to the count less 1, such as 0/4")
    return int(number), int(count)


def claim(out: pathlib.Path, given: Study, cells: Sequence[Cell]) -> None:
    """Makes the folder this study's. Raises UserError, naming what differs, when it is another's."""
    file, axes = out / "study.json", list(cells[0].where)
    if (out / "config.json").exists():
        raise UserError(f"{out}: holds a run, not a study; choose another --out")
    if file.exists():
        before = runfolder.read_json(file)
        differing = runfolder.differences(before["base"], given.base, ignored=())
        differing += [f"axes: {before['axes']} -> {axes}"] if before["axes"] != axes else []
        if differing:
            raise UserError(f"{out}: holds another study ({'; '.join(differing)}); choose another --out")
    (out / "cells").mkdir(parents=True, exist_ok=True)
    content = {"base": configs.to_dict(given.base), "axes": axes, "cells": [cell.id for cell in cells]}
    disk.write_json(file, content)


def cell_path(out: pathlib.Path, cell: str) -> pathlib.Path:
    """The file of a finished cell."""
    return out / "cells" / f"{cell}.json"


def grouped(key: Callable[[Cell], Any], cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """The cells of each key together, in the order in which keys first occur."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return iter(found.values())


def cached_federations() -> Build:
    """A function that builds the federation of a config, once for all configs of the same data and seed."""
    built: dict[tuple[str, int], Federation] = {}

    def build(config: Experiment) -> Federation:
        key = (configs.digest(config.data), config.seed)
        if key not in built:
            built[key] = config.data.build(config.seed)
        return built[key]

    return build


def train_cells(cells: Sequence[Cell], out: pathlib.Path, build: Build, say: Say) -> Failures:
    """Trains cells that may share a program by their settings, together where their data allow it as well."""
    if len(cells) == 1 or needs_own_program(cells[0].config):
        return train_each(cells, out, say)
    failures, shapes = Failures(), dict[str, Any]()

    def find_shape(cell: Cell) -> None:
        shapes[cell.id] = group.data_signature(build(cell.config))

    for cell in cells:
        failures |= failures_of([cell], out, partial(find_shape, cell))
    ready = [cell for cell in cells if cell.id in shapes]
    for batch in grouped(lambda cell: shapes[cell.id], ready):
        many = len(batch) > 1 and shapes[batch[0].id] is not None
        failures |= train_together(batch, out, build, say) if many else train_each(batch, out, say)
    return failures


def needs_own_program(config: Experiment) -> bool:
    """Whether a run must train alone, as the host takes part in its rounds or there is work after the last one."""
    plan = config.plan
    hosted = plan.data != "replicated" or plan.clients == "host" or plan.loop == "round"
    return hosted or has_conclusion(config, config.algorithm.build())


def train_together(cells: Sequence[Cell], out: pathlib.Path, build: Build, say: Say) -> Failures:
    """Trains cells as members of one program, or of several where their numbers decide what is compiled."""
    names = group.differing_numbers([cell.config for cell in cells])
    say(f"{len(cells)} cells in one program" + (f", with {', '.join(names)} as its arguments" if names else ""))
    try:
        return failures_of(cells, out, lambda: train_members(cells, out, build, say), TypeError)
    except TypeError as error:  # where a value must be known when the program is built
        say(f"these cells differ in what is compiled: {brief(error)}")
    if not names:
        return train_each(cells, out, say)
    failures = Failures()
    for batch in grouped(lambda cell: tuple(configs.flat(cell.config)[name] for name in names), cells):
        failures |= train_together(batch, out, build, say) if len(batch) > 1 else train_each(batch, out, say)
    return failures


def train_members(cells: Sequence[Cell], out: pathlib.Path, build: Build, say: Say) -> Failures:
    """Trains cells as members of one program, and saves each that comes to its end."""
    federations = [build(cell.config) for cell in cells]
    outcomes, plan = group.train([cell.config for cell in cells], federations, say)
    finished = [(cell, one.history) for cell, one in zip(cells, outcomes) if not one.failure]
    for cell, history in finished:
        save(out, cell, history, federations[0].synthetic, plan)
    return {cell.id: one.failure for cell, one in zip(cells, outcomes) if one.failure}


def train_each(cells: Sequence[Cell], out: pathlib.Path, say: Say) -> Failures:
    """Trains each cell as `fedjax-mri train` would, in a run folder of its own."""
    failures = Failures()
    for cell in cells:
        say(f"one cell in its own program: {study.describe(cell)}")
        failures |= failures_of([cell], out, partial(train_one, cell, out, say))
    return failures


def train_one(cell: Cell, out: pathlib.Path, say: Say) -> None:
    """Trains one cell in its run folder, or goes on with it there."""
    run = out / "runs" / cell.id
    if experiment.run(cell.config, run, say=say):
        raise KeyboardInterrupt
    synthetic = runfolder.read_json(run / "run.json")["synthetic"]
    save(out, cell, results.history(run), synthetic, cell.config.plan)


def failures_of(
    cells: Sequence[Cell], out: pathlib.Path, act: Callable[[], Failures | None], *but: type[Exception]
) -> Failures:
    """The cells that `act` says have failed; all of them where it raises, unless one of the exceptions `but`.

    Tracebacks are kept in the study's folder `out`.
    """
    try:
        return act() or {}
    except but:
        raise
    except Exception as error:  # a study goes on, whatever a cell does
        reason = one_line(error, out)
    return dict.fromkeys((cell.id for cell in cells), reason)


def save(out: pathlib.Path, cell: Cell, history: Sequence[Line], synthetic: bool, plan: Plan) -> None:
    """Writes the result of a finished cell; `finished_cells` reads it."""
    content = {
        "id": cell.id,
        "where": cell.where,
        "config": configs.to_dict(cell.config),
        "environment": runfolder.environment(plan),
        "synthetic": synthetic,
        "history": [flat(line) for line in history],
    }
    disk.write_json(cell_path(out, cell.id), content)


def finished_cells(out: pathlib.Path) -> list[CellResult]:
    """The results of a study's finished cells, in its order."""
    paths = [cell_path(out, cell) for cell in runfolder.read_json(out / "study.json")["cells"]]
    found = [runfolder.read_json(one) for one in paths if one.exists()]
    return [
        CellResult(one["id"], one["where"], one["synthetic"], [parse(values) for values in one["history"]])
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
