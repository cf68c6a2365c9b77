"""Trains the cells of a study in as few programs as possible; `folder.py` says what it writes."""

import pathlib
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from fedjax_mri.core import memory
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.core.failures import describe
from fedjax_mri.data import check
from fedjax_mri.data.contract import Federation
from fedjax_mri.fed.attack.poison import with_success_test
from fedjax_mri.fed.engine.plan import DoesNotFit
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, group, lock, results, runfolder
from fedjax_mri.run.assemble import build_method
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.prepare import Say, has_conclusion, refuse_patience
from fedjax_mri.run.stopping import StopSignal
from fedjax_mri.study import folder, study
from fedjax_mri.study.folder import Failure
from fedjax_mri.study.study import Cell, Study

Build = Callable[[Experiment], Federation]
Failures = dict[str, Failure]  # by the id of the cell


class Sweep(NamedTuple):
    """What all parts of a sweep share."""

    out: pathlib.Path
    build: Build
    say: Say
    stop: StopSignal


class Stopped(BaseException):
    """Raised when a signal has asked a sweep to stop; no Exception, as it is no failure of a cell."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(received)
        self.signal = received


def run(
    given: Study,
    out: pathlib.Path,
    shard: tuple[int, int] = (0, 1),
    say: Say = print,
    waiting: lock.Waiting = lock.Waiting(),  # noqa: B008  (immutable)
) -> dict[str, str]:
    """Trains the cells of one of several shards (number, count) that are not finished, and writes the table.

    Returns the reasons of the cells that failed, by id. Writes nothing if the settings of all cells are refused. Raises
    UserError on a bad study, where `out` holds another one, and when another process trains the shard; Stopped when a
    signal has asked to stop.
    """
    cells = study.cells(given)
    folder.refuse_other(out, given, cells)
    if folder.differences(out, given, cells):  # and no result: the folder can be taken, unless that has just begun
        folder.refuse_running(out)
    mine = cells[shard[0] :: shard[1]]
    todo = [cell for cell in mine if not folder.cell_path(out, cell.id).exists()]
    failures = refused_cells(todo)
    if not mine or len(failures) < len(mine):
        with lock.hold(out, waiting, say, f"shard-{shard[0]}-of-{shard[1]}"), StopSignal(say) as stop:
            folder.claim(out, given, cells)
            failures = train_shard(mine, failures, Sweep(out, cached_federations(), say, stop))
        say_failures([cell for cell in mine if cell.id in failures], failures, say)
        if failures:
            say(f"{out / 'failures'}: a file for each cell that failed")
    else:
        say_failures(mine, failures, say)
    return {cell: failure.reason for cell, failure in failures.items()}


def refused_cells(cells: Sequence[Cell]) -> Failures:
    """Returns the cells whose settings are refused before any data are read."""

    def check(config: Experiment) -> None:
        refuse_patience(config, build_method(config).algorithm)
        config.plan.resolve()

    failures = Failures()
    for cell in cells:
        failures |= failures_of([cell], partial(check, cell.config))
    return failures


def train_shard(mine: Sequence[Cell], refused: Failures, sweep: Sweep) -> Failures:
    """Trains the cells of a shard that are neither finished nor refused; returns all that have failed."""
    unfinished = [cell for cell in mine if not folder.cell_path(sweep.out, cell.id).exists()]
    todo = [cell for cell in unfinished if cell.id not in refused]
    batches = list(grouped(lambda cell: group.program_settings(cell.config), todo))
    done = len(mine) - len(unfinished)
    sweep.say(f"{len(mine)} cells, {done} of them finished; {len(batches)} kinds of program for the others")
    failures = Failures()
    try:
        failures |= keep(refused, mine, sweep)
        for batch in batches:
            failures |= keep(train_cells(batch, sweep), batch, sweep)
    except Stopped as stopped:
        done = sum(folder.cell_path(sweep.out, cell.id).exists() for cell in mine)
        words = f"stopped, {done} of {len(mine)} cells are finished; the same command trains the others"
        sweep.say(f"{stopped.signal.name}: {words}")
        raise
    finally:
        folder.write_table(sweep.out)
    return failures


def keep(failures: Failures, cells: Sequence[Cell], sweep: Sweep) -> Failures:
    """Returns `failures` after writing a file for each."""
    for cell in cells:
        if cell.id in failures:
            folder.save_failure(sweep.out, cell, failures[cell.id])
    return failures


def say_failures(cells: Sequence[Cell], failures: Failures, say: Say) -> None:
    """Says each distinct reason once, with the number of cells that it holds for and one of them."""
    for alike in grouped(lambda cell: failures[cell.id].reason, cells):
        example = f"{alike[0].id} ({study.describe(alike[0])})"
        who = example if len(alike) == 1 else f"{len(alike)} cells, such as {example}"
        say(f"failed: {who}: {failures[alike[0].id].reason}")


def shard(words: str) -> tuple[int, int]:
    """Returns the number and count that "0/4" stands for. Raises UserError where there is no such shard."""
    number, _, count = words.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 0 <= int(number) < int(count)):
        raise UserError(f"--shard {words}: give NUMBER/COUNT, the number from 0 to the count less 1, such as 0/4")
    return int(number), int(count)


def grouped(key: Callable[[Cell], Any], cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Returns the cells of each key together, in the order in which keys first occur."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return iter(found.values())


def cached_federations() -> Build:
    """Returns a function that builds the federation of a config.

    It builds once for all configs of the same data, seed and attack.
    """
    built: dict[tuple[str | int, ...], Federation] = {}

    def build(config: Experiment) -> Federation:
        key = (configs.digest(config.data), config.seed)
        if key not in built:
            built[key] = check.build_source(config.data, config.seed)
        attacked = (*key, configs.digest(config.attack))
        if attacked not in built:
            built[attacked] = with_success_test(built[key], config.attack)
        return built[attacked]

    return build


def train_cells(cells: Sequence[Cell], sweep: Sweep) -> Failures:
    """Trains cells that may share a program by their settings, together where their data allow it; returns failures."""
    if len(cells) == 1 or needs_own_program(cells[0].config):
        return train_each(cells, sweep)
    failures, shapes = Failures(), dict[str, Any]()

    def find_shape(cell: Cell) -> None:
        refuse_stopped(sweep)
        shapes[cell.id] = group.data_signature(sweep.build(cell.config))

    for cell in cells:
        failures |= failures_of([cell], partial(find_shape, cell))
    ready = [cell for cell in cells if cell.id in shapes]
    for batch in grouped(lambda cell: shapes[cell.id], ready):
        failures |= (train_together if shapes[batch[0].id] is not None else train_each)(batch, sweep)
    return failures


def needs_own_program(config: Experiment) -> bool:
    """Returns whether a run must train alone.

    It must where the host takes part in its rounds or there is work after the last one.
    """
    plan = config.plan
    hosted = plan.data != "replicated" or plan.clients == "host" or plan.loop == "round"
    return hosted or has_conclusion(config, config.algorithm.build())


def train_together(cells: Sequence[Cell], sweep: Sweep) -> Failures:
    """Trains cells as members of one program, and returns failures.

    There are several programs where numbers that vary decide what is compiled, or where memory would not do.
    """
    if len(cells) == 1:
        return train_each(cells, sweep)
    names = group.differing_numbers([cell.config for cell in cells])
    sweep.say(f"{len(cells)} cells in one program" + (f", with {', '.join(names)} as its arguments" if names else ""))
    try:
        return failures_of(cells, lambda: train_members(cells, sweep), but=splits)
    except Exception as error:  # only one for which the cells are trained in smaller groups
        unknown = isinstance(error, jax.errors.ConcretizationTypeError)
        exhausted, reason = out_of_memory(error), "these numbers build it" if unknown else short_message(error)
    if exhausted:
        half = len(cells) // 2
        sweep.say(f"{len(cells)} cells have no room in one program ({reason}): {half} and {len(cells) - half} instead")
        return train_together(cells[:half], sweep) | train_together(cells[half:], sweep)
    sweep.say(f"these cells differ in what is compiled: {reason}")
    if not names:
        return train_each(cells, sweep)
    failures = Failures()
    for batch in grouped(lambda cell: tuple(configs.flat(cell.config)[name] for name in names), cells):
        failures |= train_together(batch, sweep)
    return failures


def splits(error: Exception) -> bool:
    """Returns whether smaller groups of cells may train where a group ends with this error.

    A TypeError comes from a value that must be known when the program is built.
    """
    return isinstance(error, TypeError) or out_of_memory(error)


def out_of_memory(error: Exception) -> bool:
    """Returns whether an error says that there is not enough memory."""
    return isinstance(error, DoesNotFit) or memory.ran_out(error)


def train_members(cells: Sequence[Cell], sweep: Sweep) -> Failures:
    """Trains cells as members of one program, saves each that comes to its end, and returns failures."""
    refuse_stopped(sweep)
    federations = [sweep.build(cell.config) for cell in cells]
    several = [cell.config for cell in cells]
    outcomes, plan = group.train(several, federations, sweep.say, lambda: sweep.stop.received_by_any() is not None)
    for cell, federation, one in zip(cells, federations, outcomes):
        if not one.failure and one.history[-1].round == cell.config.rounds:
            folder.save(sweep.out, cell, one.history, federation.synthetic, plan)
    refuse_stopped(sweep)
    return {cell.id: Failure(one.failure) for cell, one in zip(cells, outcomes) if one.failure}


def train_each(cells: Sequence[Cell], sweep: Sweep) -> Failures:
    """Trains each cell as `fedjax-mri train` would, in a run folder of its own, and returns failures."""
    failures = Failures()
    for cell in cells:
        sweep.say(f"one cell in its own program: {study.describe(cell)}")
        failures |= failures_of([cell], partial(train_one, cell, sweep))
    return failures


def train_one(cell: Cell, sweep: Sweep) -> None:
    """Trains one cell in its run folder, or goes on with it there."""
    refuse_stopped(sweep)
    run = sweep.out / "runs" / cell.id
    stopped = experiment.run(cell.config, run, say=sweep.say)
    if stopped:
        raise Stopped(stopped)
    synthetic = runfolder.read_json(run / "run.json")["synthetic"]
    folder.save(sweep.out, cell, results.history(run), synthetic, cell.config.plan)


def refuse_stopped(sweep: Sweep) -> None:
    """Raises Stopped when a signal has asked to stop."""
    if sweep.stop.received is not None:
        raise Stopped(sweep.stop.received)


def failures_of(
    cells: Sequence[Cell], act: Callable[[], Failures | None], but: Callable[[Exception], bool] = lambda error: False
) -> Failures:
    """Returns the cells that `act` says have failed; all of them where it raises, unless `but` lets the error pass."""
    try:
        return act() or {}
    except Exception as error:  # a study goes on, whatever a cell does
        if but(error):
            raise
        failure = Failure(describe(error), traceback.format_exc())
    return dict.fromkeys((cell.id for cell in cells), failure)
