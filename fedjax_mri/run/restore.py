"""A saved model, judged again: on its own test data, or on another source's."""

import math
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from fedjax_mri.data.contract import ClientData, DataDescription, Source
from fedjax_mri.fed.engine import evaluate
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state
from fedjax_mri.run import results, runfolder
from fedjax_mri.run.checkpoint import Checkpoints, existing
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.experiment import assemble


class Restored(NamedTuple):
    """A run that is over, without its data."""

    config: Experiment
    described: DataDescription
    plan: Plan
    sim: Simulation
    state: State  # of the newest checkpoint, or the best


def restore(run: pathlib.Path, best: bool = False, round: int | None = None) -> Restored:
    """The newest state of a run, or its best, or that after `round`, and what it belongs to.

    Raises UserError where the folder holds none.
    """
    config, saved = runfolder.read_config(run), runfolder.read_json(run / "run.json")
    shape, labels = tuple(saved["image"]), tuple(saved.get("labels", ()))
    described = DataDescription(shape, tuple(saved["classes"]), saved["clients"], labels)
    plan = config.plan.resolve()
    nobody = ClientData(np.ones(described.clients, np.int32), (), lambda store, client, indices: {})
    sim = assemble(replace(config, init_from=""), described, nobody, plan)  # what it started from may be gone
    like = jax.eval_shape(lambda key: init_state(sim, key), jax.random.key(0))
    folder = run / "best" if best else run
    return Restored(config, described, plan, sim, Checkpoints(existing(folder)).restore(like, round))


def restore_kept(run: pathlib.Path) -> Restored:
    """A run at its best where that was kept, else at its newest. Raises UserError as `restore` does."""
    return restore(run, best=(run / "best").is_dir())


def judge(
    run: pathlib.Path, source: Source | None, say: Callable[[str], None], best: bool = False
) -> dict[str, dict[str, float]]:
    """Figures of a run's newest model, or its best, on its own test sets, or on the data of another source.

    Raises UserError when that data has classes or channels that the model does not know.
    """
    config, described, plan, sim, state = restore(run, best)
    other = source.evaluation(described.classes, config.seed) if source else None
    tests, tables = other or (config.data.build(config.seed).tests, ())
    for table in tables:
        for row in table.rows:
            say(f"{table.title}: " + ", ".join(map(str, row)))
    judged = evaluate.build(sim.task, plan, tests)(state)
    return {name: results.figures(sim.task, {"": one}) for name, one in judged.items()}


def table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Figures side by side: a line a figure, a column for each name."""
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    first, widths = max(map(len, names)), [max(10, len(title)) for title in columns]
    head = " " * first + "".join(f"  {title:>{width}}" for title, width in zip(columns, widths))
    cells = [[figures.get(name, math.nan) for figures in columns.values()] for name in names]
    lines = [
        f"{name:{first}}" + "".join(f"  {value:{width}.4f}" for value, width in zip(row, widths))
        for name, row in zip(names, cells)
    ]
    return "\n".join([head, *lines])
