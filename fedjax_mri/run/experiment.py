"""An experiment from its config to its results.

config -> data -> simulation -> plan (prepare.py) -> loop (train.py, loop.py) -> results (results.py) -> report
"""

import os
import pathlib
import signal
from collections.abc import Callable

from fedjax_mri.core import modules
from fedjax_mri.core.environment import check_jax
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import processes, reference, results
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.lock import Waiting
from fedjax_mri.run.observers import RunProgress
from fedjax_mri.run.prepare import Run, Say, hold_folder, prepare, start
from fedjax_mri.run.stopping import StopSignal
from fedjax_mri.run.train import Examples, train


def run(
    config: Experiment,
    out: str | pathlib.Path,
    resume_from: str | pathlib.Path | None = None,
    say: Say = print,
    watch: Callable[[RunProgress], None] = lambda progress: None,
    waiting: Waiting = Waiting(),  # noqa: B008  (immutable)
) -> signal.Signals | None:
    """Trains `config` in folder `out`, or goes on where it stopped; returns the signal that stopped it early, if any.

    `watch` is called after each segment; `waiting` says what to do while another process writes the folder. Raises
    UserError on a bad config, data or checkpoint, and when the training is no longer finite. Raises KeyboardInterrupt
    if a signal stops it before its first segment. Outside the main thread of a program, signals do not stop it.
    """
    refuse_import()
    check_jax()
    folder, source = check_arguments(config, out, resume_from)
    with StopSignal(say) as stop:
        prepared = prepare(config, folder, say)
        with hold_folder(folder, waiting, say) as still_held:
            started, state = start(prepared, folder, source, say)
            last, examples = train(started, state, stop, still_held, watch, say)
            started.log.close()
            save_results(started, last, examples, stop)
    if last.round >= config.rounds or stop.received is None:
        return None
    say(f"{stop.received.name}: stopped after round {last.round}, saved; the same command goes on from there")
    return stop.received


def save_results(run: Run, last: RunProgress, examples: Examples, stop: StopSignal) -> None:
    """Writes what a run has to show after its last segment. All processes take part.

    A run that a signal has stopped goes on later, and keeps no reference of its images before that.
    """
    with run.clock.measure("evaluate"):
        stopped = last.round < run.config.rounds and stop.received_by_any()
        kept = None if stopped else reference.build(run, last.state)
    if processes.is_main_process():
        if kept is not None:
            results.save_reference(run.folder, kept)
        selection = results.selection(run.sim, last.state)
        results.save(
            run.folder, last.round, run.federation, last.evaluated.tests, examples, run.clock.seconds, selection
        )


def refuse_import() -> None:
    """Raises UserError while a file is being imported: a script is imported to find the classes that it defines."""
    if file := modules.executing():
        raise UserError(f'{file}: trains when it is imported; put that below `if __name__ == "__main__":`')


def check_arguments(config: object, out: object, resume_from: object) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns `out` and `resume_from` as paths. Raises UserError where an argument is of a wrong type."""
    if not isinstance(config, Experiment):
        hint = "; choose one of its values" if isinstance(config, dict) else ""
        raise UserError(f"config is of type {type(config).__name__}: give an Experiment{hint}")
    for name, path in (("out", out), ("resume_from", resume_from)):
        if not (isinstance(path, str | os.PathLike) or (path is None and name == "resume_from")):
            raise UserError(f"{name}={path!r} is of type {type(path).__name__}: give the path of a folder")
    try:
        str(out).encode()
    except UnicodeEncodeError:
        hint = "set LC_ALL=C.UTF-8, or choose another path"
        raise UserError(f"{out}: checkpoints need a path in UTF-8, and this locale cannot read it so; {hint}") from None
    return pathlib.Path(out), None if resume_from is None else pathlib.Path(resume_from)  # type: ignore[arg-type]
