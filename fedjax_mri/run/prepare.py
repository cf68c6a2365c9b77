"""All that a run needs before it trains: method, data, simulation, plan, folder and first state, each built once."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from fedjax_mri.core import cache, disk
from fedjax_mri.core.clock import Clock
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.programs import ProgramCache
from fedjax_mri.data import check
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
from fedjax_mri.fed.privacy.off import Off
from fedjax_mri.run import checkpoint, costs, early, fingerprint, identity, initial, lock, processes, runfolder
from fedjax_mri.run import config as configs
from fedjax_mri.run.assemble import (
    Method,
    assemble_simulation,
    assemble_task,
    build_federation,
    build_method,
    compute_of,
    describe,
)
from fedjax_mri.run.checkpoint import Checkpoints, with_checkpoints
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.data_digest import DataDigest, data_digest, refuse_other_classes, refuse_other_data
from fedjax_mri.run.line import GROUPS

Say = Callable[[str], None]
NOT_PRIVATE = configs.to_dict(Off())["class"]


class Data(NamedTuple):
    """The data of a run."""

    federation: Federation
    described: DataDescription
    digest: DataDigest


class Prepared(NamedTuple):
    """What a run trains, with all settings accepted; nothing has been written."""

    config: Experiment
    data: Data
    sim: Simulation
    plan: Plan
    clock: Clock
    name: str | None  # of the programs; None where they cannot be told from those of other code


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


def prepare(config: Experiment, out: pathlib.Path, say: Say) -> Prepared:
    """Returns what a run in folder `out` trains. Writes nothing there.

    Raises UserError on bad settings and data, and where `out` holds something else.
    """
    refuse_differing_processes(config)
    clock, method = Clock(), build_method(config)  # bad settings are refused before any data are read
    refuse_patience(config, method.algorithm)
    by_rule = config.plan.resolve()
    processes.run_on_all(lambda: identity.refuse_other_run(out, config))
    with clock.measure("prepare"):
        data = build_data(config)
        early.refuse_unknown(config.early, data.federation.tests)
    with clock.measure("plan"):
        sim, plan = build_simulation(config, method, data, by_rule, say)
    with clock.measure("prepare"):
        check_simulation(sim, plan)  # what cannot fit is refused before anything large is made
        data, sim, name = checked_examples(config, data, sim, plan)
    say_notes(config, data, sim, plan, say)
    return Prepared(config, data, sim, plan, clock, name)


def start(prepared: Prepared, out: pathlib.Path, resume_from: pathlib.Path | None, say: Say) -> tuple[Run, State]:
    """Returns a run in folder `out`, and its first state: its newest checkpoint's, another run's, or a fresh one.

    The folder is held (`lock.py`). It is written when nothing can be refused any more. Raises UserError where it holds
    something else or a checkpoint does not fit.
    """
    config, data, sim, plan, clock, name = prepared
    processes.run_on_all(lambda: identity.refuse_other_run(out, config))  # it may have changed while we waited for it
    with clock.measure("prepare"):
        state = first_state(prepared, out, resume_from, say)
    goes_on = bool(checkpoint.saved_rounds(out))
    processes.check_all_equal({"the newest checkpoint": int(state.round)}, "give an --out on a disk that all share")
    if processes.is_main_process():
        if goes_on:
            runfolder.say_missing_lines(out, int(state.round), say)
        else:
            runfolder.clear(out)
        runfolder.write_config(out, config, say)
        facts = runfolder.facts(config, plan, data.federation, data.described, data.digest, sim.task.headline)
        disk.write_json(out / "run.json", facts)
    processes.all_gather(None)  # nobody saves before the folder is cleared
    log = runfolder.Log(out, int(state.round) if goes_on else -1)
    programs = None if name is None else ProgramCache(cache.folder() / "programs", name, say)
    checkpoints = Checkpoints(out, config.keep)
    return Run(config, data.federation, sim, plan, out, checkpoints, log, clock, programs), state


@contextlib.contextmanager
def hold_folder(out: pathlib.Path, waiting: lock.Waiting, say: Say) -> Iterator[Callable[[], None]]:
    """Keeps other runs out of the folder while entered; gives a function that raises UserError when one took it over.

    Process 0 holds it for all. Raises UserError, in each process, where another run is in it, or where it is not one
    folder for all.
    """
    with contextlib.ExitStack() as held:
        check = processes.run_on_all(
            lambda: held.enter_context(lock.hold(out, waiting, say)) if processes.is_main_process() else lambda: None
        )
        processes.run_on_all(lambda: runfolder.refuse_unshared(out))
        yield check


def refuse_differing_processes(config: Experiment) -> None:
    """Raises UserError, in each process, when one has another config, other packages or other devices."""
    here = {"number of devices": jax.local_device_count()}
    processes.check_all_equal({**configs.flat(config), **runfolder.versions(), **here}, "start all processes alike")


def refuse_patience(config: Experiment, algorithm: Algorithm) -> None:
    """Raises UserError when a run may end early although something follows its last round."""
    if config.early.patience and has_conclusion(config, algorithm):
        raise UserError(f"early.patience={config.early.patience}: what follows the last round needs all rounds; give 0")


def has_conclusion(config: Experiment, algorithm: Algorithm) -> bool:
    """Returns whether there is something to do after the last round."""
    return bool(config.finetune.epochs or config.distil.epochs) or algorithm.member is not None


def build_data(config: Experiment) -> Data:
    """Returns the data of a config. Raises UserError, in each process, where one has other data."""
    federation = processes.run_on_all(lambda: build_federation(config))
    for name in set(GROUPS) & federation.tests.keys():
        raise UserError(f"data: a test set is named {name!r}, as a group of figures in metrics.jsonl is: rename it")
    digest = data_digest(federation)
    processes.check_all_equal({"the data": " ".join(digest)}, "give all processes the same files")
    return Data(federation, describe(federation), digest)


def build_simulation(
    config: Experiment, method: Method, data: Data, by_rule: Plan, say: Say
) -> tuple[Simulation, Plan]:
    """Returns the simulation of a config, and its plan with nothing left open; `by_rule` is it before measuring."""
    sim = assemble_simulation(config, method, data.described, data.federation.train, by_rule)
    return choose_plan(config, data.described, sim, by_rule, say)


def checked_examples(
    config: Experiment, data: Data, sim: Simulation, plan: Plan
) -> tuple[Data, Simulation, str | None]:
    """Returns the data and the simulation with examples that are what the task reads, and the name of their programs.

    Examples that a user's source computes are looked at when their programs are new here. Raises UserError, in each
    process, where examples are something else.
    """
    source, reads = type(config.data).__name__, sim.task.reads
    federation = processes.run_on_all(lambda: check.contents(data.federation, reads, source))
    name = fingerprint.of_run(config, plan, " ".join(data.digest[:-1]), sim, federation.tests)
    file = None if name is None else cache.folder() / "checked" / name

    def look() -> None:
        if file is None or not file.exists():
            check.computed_by_users(federation, reads, config.data)
        if file is not None:
            disk.write_cache(file, b"")

    processes.run_on_all(look)
    train = federation.train._replace(shift=sim.data.shift, pick=sim.data.pick)  # an attack changes both
    return data._replace(federation=federation), sim._replace(data=train), name


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

    plan = auto.choose_plan(config.plan, planned, cache.folder() / "plans", say, config.rounds)
    return planned(plan), plan


def say_notes(config: Experiment, data: Data, sim: Simulation, plan: Plan, say: Say) -> None:
    """Says which initial weights were not taken as they stood, what is odd about the data, and which lanes are idle."""
    for note in initial.notes(config.init_from, data.described.classes, sim.task):
        say(note)
    for warning in (*data.federation.warnings, early.leak(config.early, data.federation.tests)):
        if warning:
            say(f"warning: {warning}")
    if sim.guarantee is not None:
        say(f"privacy: {costs.privacy(sim.guarantee, config.rounds)}")
    if hidden := config.secure.hides():
        say(f"secure: {hidden}")
    if who := costs.attackers(config, sim):
        say(f"attackers: {who}")
    if idle := costs.idle_lanes(sim, plan):
        say(f"idle lanes: {idle}")


def first_state(prepared: Prepared, out: pathlib.Path, resume_from: pathlib.Path | None, say: Say) -> State:
    """Returns the state of this run's newest checkpoint, or of another run's, or a fresh one.

    Raises UserError where that is damaged or was saved with other data or by another method.
    """
    config, sim, plan = prepared.config, prepared.sim, prepared.plan
    if checkpoint.saved_rounds(out):
        source, known = out, runfolder.read_json(out / "run.json")
        refuse_other_data(source, known.get("data", {}), prepared.data.digest)
        identity.refuse_other_numerics(source, known, say)
    elif resume_from is None:
        return initial_state(sim, plan, jax.random.key(config.seed))
    else:
        source = with_checkpoints(resume_from)
        refuse_other_beginning(source, config, prepared.data.described.classes)
    state = Checkpoints(source).restore(state_shapes(sim))
    say(f"going on after round {int(state.round)} of {source}")
    if int(state.round) > config.rounds:
        raise UserError(f"rounds={config.rounds}: {source} has done {int(state.round)}; ask for more")
    return place_state(plan, state)


def refuse_other_beginning(source: pathlib.Path, config: Experiment, classes: tuple[str, ...]) -> None:
    """Raises UserError where the state of run `source` is another algorithm's, or its model one of other classes."""
    run = source.parent if source.name == "best" else source
    before = runfolder.read_json(run / "config.json")
    if not {before.get("privacy", {}).get("class"), configs.to_dict(config.privacy)["class"]} <= {None, NOT_PRIVATE}:
        raise UserError(
            f"--resume-from {source}: a budget is kept in the folder of its run, so that private runs go on there "
            f"alone; to begin with its model, give --init-from {source}, whose own privacy then counts as well"
        )
    refuse_other_classes(source, runfolder.read_json(run / "run.json")["classes"], classes)
    theirs, ours = (plain["algorithm"]["class"] for plain in (before, configs.to_dict(config)))
    if theirs != ours:
        raise UserError(
            f"--resume-from {source}: a run by {theirs.rpartition('.')[2]}, and this one is by "
            f"{ours.rpartition('.')[2]}; to begin with its model alone, give --init-from {source}"
        )
