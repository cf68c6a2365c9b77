"""A saved model, without what it was trained with: neither data, nor a sampler, nor local training is needed."""

import math
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.contract import DataDescription, Federation, Source
from fedjax_mri.fed.algorithm import Algorithm
from fedjax_mri.fed.engine import evaluate
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, init_one_client
from fedjax_mri.fed.uplink.contract import Uplink
from fedjax_mri.run import results, runfolder
from fedjax_mri.run.assemble import assemble_task, build_algorithm, build_federation, compute_of, private_parts
from fedjax_mri.run.checkpoint import Checkpoints, with_checkpoints
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.data_digest import data_differences, data_digest, refuse_other_classes
from fedjax_mri.run.line import TestFigures
from fedjax_mri.tasks.task import Task

# Sections of a config that a model is restored without; `init_from` is what it started from, which may be gone.
NOT_NEEDED = ("sampling", "conditions", "local", "finetune", "distil", "early", "init_from")


class Architecture(NamedTuple):
    """What a run has trained, without what was learnt."""

    config: Experiment  # with defaults in the sections that are NOT_NEEDED
    described: DataDescription
    plan: Plan
    task: Task
    algorithm: Algorithm


class Restored(NamedTuple):
    """A run that is over, without its data."""

    config: Experiment  # as that of `Architecture`
    described: DataDescription
    plan: Plan
    task: Task
    algorithm: Algorithm
    state: State  # the newest, the best, or that of a round


def restore(run: pathlib.Path, best: bool = False, round: int | None = None) -> Restored:
    """Returns a run with its newest state, or its best, or that after `round`.

    Raises UserError where the folder holds none.
    """
    if best and run.is_dir() and not (run / "best").is_dir():
        raise UserError(f"{run}: keeps no best model, since its config has no early.figure; leave --best out")
    model = read_model(run)
    uplink, _ = private_parts(model.config, math.nan)
    shapes = state_shapes(model.task, model.algorithm, uplink, model.described.clients)
    saved = Checkpoints(with_checkpoints(run / "best" if best else run))
    return Restored(*model, saved.restore(shapes, round))


def read_model(run: pathlib.Path) -> Architecture:
    """Returns what a run has trained, by its config alone. Raises UserError where the folder is no run's."""
    config, facts = read_model_config(run), runfolder.read_json(run / "run.json")
    described = runfolder.description(facts)
    plan, algorithm = config.plan.resolve(), build_algorithm(config)
    task = assemble_task(config, algorithm, described, compute_of(plan))
    return Architecture(config, described, plan, task, algorithm)


def read_model_config(run: pathlib.Path) -> Experiment:
    """Returns the config of a run, with defaults in the sections that are NOT_NEEDED: their classes may be gone."""
    return runfolder.read_config(run, NOT_NEEDED)


def state_shapes(task: Task, algorithm: Algorithm, uplink: Uplink, clients: int) -> State:
    """Returns the shapes of a run's state; they depend on neither sampling, nor local training, nor data."""
    one = partial(init_one_client, task, algorithm, uplink)
    state = jax.eval_shape(one, jax.random.key(0))
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((clients, *x.shape), x.dtype), state.clients)
    return state._replace(clients=rows)


def restore_best_or_newest(run: pathlib.Path) -> Restored:
    """Returns a run with its best state where that was kept, else its newest. Raises UserError as `restore` does."""
    return restore(run, best=(run / "best").is_dir())


def evaluate_run(
    run: pathlib.Path, source: Source | None, say: Callable[[str], None], best: bool = False
) -> dict[str, TestFigures]:
    """Returns figures of a run's newest model, or its best, on its own test sets, or on the data of another source.

    Raises UserError when that data has classes or channels that the model does not know, or predictions are not finite.
    """
    restored = restore(run, best)
    config, classes = restored.config, restored.described.classes
    other = check.evaluation(source, classes, config.seed) if source else None
    tests, tables = other or (rebuild_data(run, config, say).tests, ())
    tests = check.tests_with_contents(tests, restored.task.reads, classes, type(source or config.data).__name__)
    for table in tables:
        for row in table.rows:
            say(f"{table.title}: " + ", ".join(map(str, row)))
    found = evaluate.build(restored.task, restored.plan, tests)(restored.state)
    if failure := evaluate.failure(found):
        raise UserError(f"{run}: {failure}; check its images, or take an earlier checkpoint")
    return results.metrics_by_test(restored.task, found)


def rebuild_data(run: pathlib.Path, config: Experiment, say: Callable[[str], None]) -> Federation:
    """Returns the data of a run's config; says what has changed since the run.

    Raises UserError when the classes have: the model's answers would be taken for others.
    """
    federation, facts = build_federation(config), runfolder.read_json(run / "run.json")
    refuse_other_classes(run, facts["classes"], federation.classes)
    for line in data_differences(facts.get("data", {}), data_digest(federation)):
        say(f"warning: the data have changed since {run} was trained: {line}")
    return federation


def figure_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Returns figures side by side as text: a line for each figure, a column for each name."""
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    first, widths = max(map(len, names)), [max(10, len(title)) for title in columns]
    head = " " * first + "".join(f"  {title:>{width}}" for title, width in zip(columns, widths))
    cells = [[figures.get(name, math.nan) for figures in columns.values()] for name in names]
    lines = [
        f"{name:{first}}" + "".join(f"  {value:{width}.4f}" for value, width in zip(row, widths))
        for name, row in zip(names, cells)
    ]
    return "\n".join([head, *lines])
