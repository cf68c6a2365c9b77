"""A study carried out: cells in as few programs as can be, each cell's result a file, all results one table.

STUDY/study.json        the base, the axes, the ids of all cells
STUDY/cells/ID.json     one finished cell: where it lies, its config, its lines as in metrics.jsonl
STUDY/runs/ID/          run folders of cells that had a program to themselves
STUDY/table.csv         a row for each cell and evaluation
"""

import csv
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError, brief
from fedjax_mri.data.contract import Federation
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, group, runfolder
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.experiment import Say
from fedjax_mri.study import study
from fedjax_mri.study.study import Cell, Study

Build = Callable[[Experiment], Federation]
Failures = dict[str, str]  # id of a cell -> why


def run(given: Study, out: pathlib.Path, shard: tuple[int, int] = (0, 1), say: Say = print) -> Failures:
    """Trains the cells of one of several shards (number, count) that are not finished, and writes the table.

    Raises UserError on a bad study, and where `out` holds another one.
    """
    every = study.cells(given)
    claim(out, given, every)
    mine = every[shard[0] :: shard[1]]
    todo = [cell for cell in mine if not path(out, cell.id).exists()]
    batches = list(by(lambda cell: group.likeness(cell.config), todo))
    say(f"{len(mine)} cells, {len(mine) - len(todo)} of them finished; {len(batches)} kinds of program for the others")
    failures, build = Failures(), remembering()
    for batch in batches:
        failures |= attempt(batch, partial(carry_out, batch, out, build, say))
    for cell in (cell for cell in todo if cell.id in failures):
        say(f"failed: {cell.id} ({study.words(cell)}): {failures[cell.id]}")
    write_table(out)
    return failures


def shard(words: str) -> tuple[int, int]:
    """Number and count of "0/4". Raises UserError where there is no such shard."""
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
        differing = runfolder.differences(configs.from_dict(before["base"]), given.base, free=())
        differing += [f"axes: {before['axes']} -> {axes}"] if before["axes"] != axes else []
        if differing:
            raise UserError(f"{out}: holds another study ({'; '.join(differing)}); choose another --out")
    (out / "cells").mkdir(parents=True, exist_ok=True)
    content = {"base": configs.to_dict(given.base), "axes": axes, "cells": [cell.id for cell in cells]}
    disk.write_json(file, content)


def path(out: pathlib.Path, cell: str) -> pathlib.Path:
    """Where a cell's result is, once it is finished."""
    return out / "cells" / f"{cell}.json"


def by(key: Callable[[Cell], Any], cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """The cells of each key, in the order in which keys first occur."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return iter(found.values())


def remembering() -> Build:
    """The federation of a config, built once for all that have the same data and seed."""
    built: dict[tuple[str, int], Federation] = {}

    def build(config: Experiment) -> Federation:
        key = (configs.digest(config.data), config.seed)
        if key not in built:
            built[key] = config.data.build(config.seed)
        return built[key]

    return build


def carry_out(cells: Sequence[Cell], out: pathlib.Path, build: Build, say: Say) -> Failures:
    """Cells of one likeness, together where their data allow it."""
    if len(cells) == 1 or alone_only(cells[0].config):
        return one_by_one(cells, out, say)
    failures, shapes = Failures(), dict[str, Any]()

    def look(cell: Cell) -> None:
        shapes[cell.id] = group.shape(build(cell.config))

    for cell in cells:
        failures |= attempt([cell], partial(look, cell))
    ready = [cell for cell in cells if cell.id in shapes]
    for batch in by(lambda cell: shapes[cell.id], ready):
        many = len(batch) > 1 and shapes[batch[0].id] is not None
        failures |= together(batch, out, build, say) if many else one_by_one(batch, out, say)
    return failures


def alone_only(config: Experiment) -> bool:
    """Whether the host has a part in the run, or work after it, that is for one run at a time."""
    plan = config.plan
    hosted = plan.data != "replicated" or plan.clients == "host" or plan.loop == "round"
    return hosted or experiment.concludes(config)


def together(cells: Sequence[Cell], out: pathlib.Path, build: Build, say: Say) -> Failures:
    """Cells as members of one program; as several where its arguments decide what it is."""
    names = group.numbers([cell.config for cell in cells])
    say(f"{len(cells)} cells in one program" + (f", with {', '.join(names)} as its arguments" if names else ""))
    try:
        return attempt(cells, lambda: train(cells, out, build, say), TypeError)
    except TypeError as error:  # where a value must be known when the program is built
        say(f"these cells differ in what is compiled: {brief(error)}")
    if not names:
        return one_by_one(cells, out, say)
    failures = Failures()
    for batch in by(lambda cell: tuple(configs.flat(cell.config)[name] for name in names), cells):
        failures |= together(batch, out, build, say) if len(batch) > 1 else one_by_one(batch, out, say)
    return failures


def train(cells: Sequence[Cell], out: pathlib.Path, build: Build, say: Say) -> Failures:
    """Trains all, saves each that comes to its end."""
    federations = [build(cell.config) for cell in cells]
    outcomes, plan = group.train([cell.config for cell in cells], federations, say)
    finished = [(cell, one.history) for cell, one in zip(cells, outcomes) if not one.failure]
    for cell, history in finished:
        save(out, cell, history, federations[0].synthetic, plan)
    return {cell.id: one.failure for cell, one in zip(cells, outcomes) if one.failure}


def one_by_one(cells: Sequence[Cell], out: pathlib.Path, say: Say) -> Failures:
    """Each as `train` would, in a run folder of its own."""
    failures = Failures()
    for cell in cells:
        say(f"one cell in its own program: {study.words(cell)}")
        failures |= attempt([cell], partial(alone, cell, out, say))
    return failures


def alone(cell: Cell, out: pathlib.Path, say: Say) -> None:
    """Trains one, or goes on with it."""
    run = out / "runs" / cell.id
    if experiment.run(cell.config, run, say=say):
        raise KeyboardInterrupt
    synthetic = runfolder.read_json(run / "run.json")["synthetic"]
    save(out, cell, runfolder.read_history(run), synthetic, cell.config.plan)


def attempt(cells: Sequence[Cell], act: Callable[[], Failures | None], *but: type[Exception]) -> Failures:
    """What `act` fails in; where it fails altogether, by whatever but those exceptions, all cells have failed."""
    try:
        return act() or {}
    except but:
        raise
    except UserError as error:
        reason = str(error)
    except Exception as error:  # a study goes on, whatever a cell does
        reason = f"{type(error).__name__}: {brief(error)}"
    return dict.fromkeys((cell.id for cell in cells), reason)


def save(out: pathlib.Path, cell: Cell, history: Sequence[dict[str, float]], synthetic: bool, plan: Plan) -> None:
    """The cell's row, whole or not at all."""
    content = {
        "id": cell.id,
        "where": cell.where,
        "config": configs.to_dict(cell.config),
        "environment": runfolder.environment(plan),
        "synthetic": synthetic,
        "history": list(history),
    }
    disk.write_json(path(out, cell.id), content)


def rows(out: pathlib.Path) -> list[dict[str, Any]]:
    """The finished cells of a study, in its order."""
    paths = [path(out, cell) for cell in runfolder.read_json(out / "study.json")["cells"]]
    return [runfolder.read_json(one) for one in paths if one.exists()]


def write_table(out: pathlib.Path) -> pathlib.Path:
    """table.csv from the finished cells: cell, axes, round, figures."""
    lines = [{"cell": row["id"], **row["where"], **line} for row in rows(out) for line in row["history"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    disk.write_text(out / "table.csv", text.getvalue())
    return out / "table.csv"
