"""A saved model, judged again: on its own test data, or on another source's."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedjax_mri import results, runfolder
from fedjax_mri.checkpoint import Checkpoints
from fedjax_mri.config import Experiment
from fedjax_mri.data.client_data import ClientData, Source
from fedjax_mri.experiment import Described, assemble, existing
from fedjax_mri.fed import engine, evaluate
from fedjax_mri.fed.engine import Simulation, State
from fedjax_mri.fed.plan import Plan


class Restored(NamedTuple):
    """A run that is over, without its data."""

    config: Experiment
    described: Described
    plan: Plan
    sim: Simulation
    state: State  # of the newest checkpoint


def restore(run: pathlib.Path) -> Restored:
    """The newest state of a run, and what it belongs to. Raises UserError where the folder holds none."""
    config, saved = runfolder.read_config(run), runfolder.read_json(run / "run.json")
    described = Described(tuple(saved["image"]), tuple(saved["classes"]), saved["clients"])
    plan = config.plan.resolve()
    nobody = ClientData(np.ones(described.clients, np.int32), (), lambda store, client, indices: {})
    sim = assemble(config, described, nobody, plan)
    like = jax.eval_shape(lambda key: engine.init(sim, key), jax.random.key(0))
    return Restored(config, described, plan, sim, Checkpoints(existing(run)).restore(like))


def judge(run: pathlib.Path, source: Source | None, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Figures of a run's newest model on its own test sets, or on the data of another source.

    Raises UserError when that data has classes or channels that the model does not know.
    """
    config, described, plan, sim, state = restore(run)
    other = source.evaluation(described.classes, config.seed) if source else None
    tests, tables = other or (config.data.build(config.seed).tests, ())
    for table in tables:
        for row in table.rows:
            say(f"{table.title}: " + ", ".join(map(str, row)))
    judged = evaluate.build(sim.task, plan, tests)(state)
    return {name: results.figures(sim.task, {"": one}) for name, one in judged.items()}
