"""What watches a run: its log, its checkpoints, its best model, its pictures, and what ends it early.

Each function returns an observer of the training loop. Processes that train one run together must all call the same
observers in the same order: saving and stopping need all of them.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.clock import Clock
from fedjax_mri.data.contract import Federation
from fedjax_mri.fed.engine.evaluate import Evaluation
from fedjax_mri.fed.engine.simulation import State
from fedjax_mri.fed.uplink.stages.clip import nonfinite_counts
from fedjax_mri.run import pictures, processes, results
from fedjax_mri.run.checkpoint import Checkpoints
from fedjax_mri.run.early import Early, last_is_best, patience_is_over
from fedjax_mri.run.line import LogEntry, SegmentFigures, flat
from fedjax_mri.run.loop import Observer, Progress
from fedjax_mri.run.runfolder import Log
from fedjax_mri.run.stopping import StopSignal


class Trained(NamedTuple):
    """What a segment of a run amounted to."""

    figures: SegmentFigures
    concluded: dict[str, Evaluation]  # test sets by what follows the last round: an ensemble, fine-tuned models


class Evaluated(NamedTuple):
    """A run's state on its test sets."""

    line: LogEntry  # what metrics.jsonl says of it
    tests: dict[str, Evaluation]  # test set -> the model on it
    headline: str  # the figure of each test set to look at first


RunProgress = Progress[State, Trained, Evaluated]
RunObserver = Observer[State, Trained, Evaluated]


def after_segments(act: Callable[[RunProgress], None]) -> RunObserver:
    """Returns an observer that calls `act` after each segment, and not before the first one."""
    return lambda progress: act(progress) if progress.trained is not None else None


def write_lines(log: Log) -> RunObserver:
    """Returns an observer that writes a line of figures after each evaluation, but no first line twice."""

    def observe(progress: RunProgress) -> None:
        if progress.trained is not None or not log.history:
            log.write(progress.evaluated.line)

    return observe


def save_best(early: Early, log: Log, run: pathlib.Path, clock: Clock, federation: Federation) -> RunObserver:
    """Returns an observer that saves state and evaluation in RUN/best whenever the log's newest line is the best one.

    The state before the first round is a candidate too: it may be that of another run.
    """

    def save(progress: RunProgress) -> None:
        if progress.trained is None and early.figure not in flat(log.history[-1]):
            return  # figures of the training are not there before the first round
        if last_is_best(early, log.history):
            with clock.measure("checkpoint"):
                Checkpoints(run / "best", 1).save(progress.round, progress.state)
                if processes.is_main_process():
                    results.save_best(run, progress.round, federation, progress.evaluated.tests)

    return save


def save_checkpoints(checkpoints: Checkpoints, clock: Clock) -> RunObserver:
    """Returns an observer that saves the state after each segment."""

    def save(progress: RunProgress) -> None:
        with clock.measure("checkpoint"):
            checkpoints.save(progress.round, progress.state)

    return after_segments(save)


def save_pictures(
    examples: Callable[[State], dict[str, np.ndarray]], run: pathlib.Path, synthetic: bool
) -> RunObserver:
    """Returns an observer that draws a few `examples` of the state after each segment in RUN/pictures."""

    def save(progress: RunProgress) -> None:
        fields = examples(progress.state)  # every process must take part in computing them
        if processes.is_main_process():
            pictures.save(run / "pictures", progress.round, fields, synthetic)

    return after_segments(save)


def name_nonfinite_clients(say: Callable[[str], None]) -> RunObserver:
    """Returns an observer that names the clients whose updates `clip` has found not finite in the last segment."""
    before: np.ndarray | None = None

    def observe(progress: RunProgress) -> None:
        nonlocal before
        counts = nonfinite_counts(progress.state.clients.uplink)
        if before is not None and np.any(counts > before):
            names = ", ".join(map(str, np.flatnonzero(counts > before)))
            say(f"warning: round {progress.round}: updates of clients {names} were not finite and counted as zero")
        before = counts

    return observe


def end_without_improvement(early: Early, log: Log) -> RunObserver:
    """Returns an observer that ends the training when the best line of the log is too old."""
    return lambda progress: patience_is_over(early, log.history)


def end_on_signal(stop: StopSignal) -> RunObserver:
    """Returns an observer that ends the training when any process was asked to stop."""
    return lambda progress: stop.received_by_any() is not None
