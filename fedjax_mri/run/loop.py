"""The training loop: for one run, for runs that share a program, and for runs that each leave out one site.

compile beside the first evaluation -> observers -> (train a segment -> evaluate -> observers) until the last round
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from fedjax_mri.core.clock import Clock

S = TypeVar("S")  # the state of what is trained
T = TypeVar("T")  # what a segment amounted to
E = TypeVar("E")  # what an evaluation found
Advance = Callable[[S, int], tuple[S, T]]  # (state, rounds) -> (state after that many more rounds, what they were)


class Progress(NamedTuple, Generic[S, T, E]):
    """Training between two segments, as observers see it."""

    round: int  # rounds done
    rounds: int  # rounds of the whole training
    state: S
    trained: T | None  # what the last segment amounted to; None before the first segment
    evaluated: E


Observer = Callable[[Progress[S, T, E]], bool | None]  # what returns True ends the training


class Training(NamedTuple, Generic[S, T, E]):
    """What is trained, and for how long."""

    rounds: int
    evaluate_every: int  # rounds of a segment
    compile: Callable[[], Advance[S, T]]
    evaluate: Callable[[S, T | None], E]  # (state, what the last segment amounted to, None before the first)


def train(
    training: Training[S, T, E], state: S, round: int, observers: Sequence[Observer[S, T, E]], clock: Clock
) -> Progress[S, T, E]:
    """Trains `state`, which has done `round` rounds, to the last round or until an observer returns True.

    Returns the last progress. All observers see all progress, the one before the first segment included, in order.
    `clock` counts what is spent on compiling and on evaluating after a segment.
    """
    progress, advance = compile_and_evaluate(training, state, round, clock)
    while not notify_observers(progress, observers):
        to_evaluation = training.evaluate_every - progress.round % training.evaluate_every
        length = min(to_evaluation, training.rounds - progress.round)
        state, trained = advance(progress.state, length)
        with clock.measure("evaluate"):
            evaluated = training.evaluate(state, trained)
        progress = Progress(progress.round + length, training.rounds, state, trained, evaluated)
    return progress


def notify_observers(progress: Progress[S, T, E], observers: Sequence[Observer[S, T, E]]) -> bool:
    """Shows `progress` to all observers; returns whether it is the last."""
    asked = [observe(progress) for observe in observers]
    return any(asked) or progress.round >= progress.rounds


def compile_and_evaluate(
    training: Training[S, T, E], state: S, round: int, clock: Clock
) -> tuple[Progress[S, T, E], Advance[S, T]]:
    """Returns the progress before the first segment and the compiled segment; compiles it while it evaluates."""

    def compiled() -> Advance[S, T]:
        if round >= training.rounds:
            return _nothing_left
        with clock.measure("compile"):
            return training.compile()

    with ThreadPoolExecutor(1) as beside:
        compiling = beside.submit(compiled)
        evaluated = training.evaluate(state, None)
        return Progress(round, training.rounds, state, None, evaluated), compiling.result()


def _nothing_left(state: S, rounds: int) -> tuple[S, T]:
    raise AssertionError("all rounds are done")
