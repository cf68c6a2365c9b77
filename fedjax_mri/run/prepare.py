"""All that a run needs before it trains: method, data, simulation, plan, folder and first state, each built once."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax

from fedjax_mri.core import cache, disk
from fedjax_mri.core.clock import Clock
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.programs import ProgramCache
from fedjax_mri.data.contract import DataDescription, Federation
from fedjax_mri.fed.algorithm import Algorithm
from fedjax_mri.fed.engine import auto
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import (
    Simulation,
    State,
    check_simulation,
    initial_state,
    place_state,
    state_shapes,
)
from fedjax_mri.run import config as configs
from fedjax_mri.run import fingerprint, initial, processes, runfolder
from fedjax_mri.run.assemble import Method, assemble_simulation, assemble_task, build_method, compute_of, describe
from fedjax_mri.run.checkpoint import Checkpoints, with_checkpoints
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.line import SIMULATED, TRAIN, UPLINK

Say = Callable[[str], None]


class Data(NamedTuple):
    """The data of a run."""

    federation: Federation
    described: DataDescription
    digest: str


class Run(NamedTuple):
    """All that a run needs but its state."""

    config: Experiment
    federation: Federation
    sim: Simulation
    plan: Plan
    folder: pathlib.Path
    checkpoints: Checkpoints
    log: runfolder.Log
    clock: Clock
    programs: ProgramCache | None  # traced ones; None where they cannot be told from those of other code


def prepare(config: Experiment, out: pathlib.Path, resume_from: pathlib.Path | None, say: Say) -> tuple[Run, State]:
    """Returns a run in folder `out`, and its first state: its newest checkpoint's, another run's, or a fresh one.

    Raises UserError on bad settings, data or checkpoints.
    """
    refuse_differing_processes(config)
    clock, method = Clock(), build_method(config)  # bad settings are refused before any data are read
    refuse_patience(config, method.algorithm)
    by_rule = config.plan.resolve()
    create_folder(out, config)
    with clock.measure("prepare"):
        data = build_data(config)
    with clock.measure("plan"):
        sim, plan = build_simulation(config, method, data, by_rule, say)
    with clock.measure("prepare"):
        check_simulation(sim, plan)  # what cannot fit is refused before anything large is made
        checkpoints = Checkpoints(out, config.keep)
        state = first_state(sim, config, plan, checkpoints, resume_from, say)
    processes.same({"the newest checkpoint": int(state.round)}, "give an --out on a disk that all share")
    say_notes(config, data, sim, say)
    if processes.main():
        facts = runfolder.facts(config, plan, data.federation, data.described, sim.task.headline)
        disk.write_json(out / "run.json", facts)
    log = runfolder.Log(out, int(state.round))
    name = fingerprint.of_run(config, plan, data.digest, sim, data.federation.tests)
    programs = None if name is None else ProgramCache(cache.folder() / "programs", name, say)
    return Run(config, data.federation, sim, plan, out, checkpoints, log, clock, programs), state


def refuse_differing_processes(config: Experiment) -> None:
    """Raises UserError, in each process, when one has another config, other packages or other devices."""
    here = {"number of devices": jax.local_device_count()}
    processes.same({**configs.flat(config), **runfolder.versions(), **here}, "start all processes alike")


def refuse_patience(config: Experiment, algorithm: Algorithm) -> None:
    """Raises UserError when a run may end early although something follows its last round."""
    if config.early.patience and has_conclusion(config, algorithm):
        raise UserError(f"early.patience={config.early.patience}: what follows the last round needs all rounds; give 0")


def has_conclusion(config: Experiment, algorithm: Algorithm) -> bool:
    """Returns whether there is something to do after the last round."""
    return bool(config.finetune.epochs or config.distil.epochs) or algorithm.member is not None


def create_folder(out: pathlib.Path, config: Experiment) -> None:
    """Creates the run's folder, or accepts it if it holds this run.

    Raises UserError, in each process, where it is another run's or not a shared one.
    """
    processes.together(lambda: runfolder.create(out, config))
    processes.together(lambda: runfolder.refuse_unshared(out))


def build_data(config: Experiment) -> Data:
    """Returns the data of a config. Raises UserError, in each process, where one has other data."""
    federation = processes.together(lambda: config.data.build(config.seed))
    for name in {TRAIN, SIMULATED, UPLINK} & federation.tests.keys():
        raise UserError(f"data: a test set is named {name!r}, as a group of figures in metrics.jsonl is: rename it")
    digest = data_digest(federation)
    processes.same({"the data": digest}, "give all processes the same files")
    return Data(federation, describe(federation), digest)


def data_digest(federation: Federation) -> str:
    """Returns a name for a federation, of the sizes and labels of its clients and tests."""
    tests = {name: test.data.sizes.tolist() for name, test in federation.tests.items()}
    whole = (federation.train.sizes.tolist(), federation.labels.tolist(), federation.classes, tests)
    return f"{federation.train.sizes.sum()} examples, {hashlib.sha256(repr(whole).encode()).hexdigest()[:12]}"


def build_simulation(
    config: Experiment, method: Method, data: Data, by_rule: Plan, say: Say
) -> tuple[Simulation, Plan]:
    """Returns the simulation of a config, and its plan with nothing left open; `by_rule` is it before measuring."""
    sim = assemble_simulation(config, method, data.described, data.federation.train, by_rule)
    return choose_plan(config, data.described, sim, by_rule, say)


def choose_plan(
    config: Experiment, described: DataDescription, sim: Simulation, by_rule: Plan, say: Say
) -> tuple[Simulation, Plan]:
    """Measures what the config's plan leaves open; returns the simulation as the plan computes it, and the plan.

    `sim` was built for the plan `by_rule`.
    """

    def planned(plan: Plan) -> Simulation:
        if compute_of(plan) == compute_of(by_rule):
            return sim
        return sim._replace(task=assemble_task(config, sim.algorithm, described, compute_of(plan)))

    plan = auto.choose_plan(config.plan, planned, cache.folder() / "plans", say)
    return planned(plan), plan


def say_notes(config: Experiment, data: Data, sim: Simulation, say: Say) -> None:
    """Says which initial weights were not taken as they stood, and what is odd about the data."""
    for note in initial.notes(config.init_from, data.described.classes, sim.task):
        say(note)
    for warning in data.federation.warnings:
        say(f"warning: {warning}")


def first_state(
    sim: Simulation,
    config: Experiment,
    plan: Plan,
    checkpoints: Checkpoints,
    resume_from: pathlib.Path | None,
    say: Say,
) -> State:
    """Returns the state of this run's newest checkpoint, or of another run's, or a fresh one."""
    root = jax.random.key(config.seed)
    goes_on = checkpoints.latest() is not None
    if not goes_on and resume_from is None:
        return initial_state(sim, plan, root)
    source = checkpoints if goes_on else Checkpoints(with_checkpoints(resume_from))
    state = source.restore(state_shapes(sim))
    say(f"going on after round {int(state.round)} of {source.folder.parent}")
    if int(state.round) > config.rounds:
        raise UserError(f"rounds={config.rounds}: {source.folder.parent} has done {int(state.round)}; ask for more")
    return place_state(plan, state)
