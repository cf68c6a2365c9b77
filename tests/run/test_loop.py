"""The training loop, on numbers: how it cuts rounds into segments, who sees what, and when it ends."""

import threading
from collections.abc import Callable

import pytest

from fedjax_mri.core.clock import Clock
from fedjax_mri.run import loop, observers
from fedjax_mri.run.loop import Progress, Training


def training(rounds: int, every: int, compile: Callable[[], None] = lambda: None) -> Training[int, int, str]:
    """A state that counts its rounds, each of which adds one."""

    def compiled() -> Callable[[int, int], tuple[int, int]]:
        compile()
        return lambda state, length: (state + length, length)

    return Training(rounds, every, compiled, lambda state, trained: f"{state} after {trained}")


@pytest.mark.parametrize(
    ("start", "lengths"), [(0, [None, 3, 3, 1]), (2, [None, 1, 3, 1]), (6, [None, 1]), (7, [None])]
)
def test_evaluations_come_after_the_same_rounds_wherever_it_starts(start, lengths) -> None:
    seen: list[Progress] = []
    last = loop.train(training(7, 3), start, start, [seen.append], Clock())
    assert [one.trained for one in seen] == lengths
    assert [one.round for one in seen] == [one.state for one in seen]
    assert last == seen[-1] == Progress(7, 7, 7, lengths[-1], f"7 after {lengths[-1]}")


def test_all_observers_see_all_progress_in_order_whoever_asks_to_end() -> None:
    seen: list[tuple[str, int]] = []

    def observer(name: str, end: int) -> Callable[[Progress], bool]:
        return lambda progress: seen.append((name, progress.round)) or progress.round >= end

    last = loop.train(training(9, 2), 0, 0, [observer("a", 4), observer("b", 99)], Clock())
    assert seen == [(name, round) for round in (0, 2, 4) for name in "ab"]
    assert last.round == 4


def test_it_may_end_before_the_first_segment() -> None:
    assert loop.train(training(9, 2), 0, 0, [lambda progress: True], Clock()).trained is None


def test_it_compiles_while_it_evaluates() -> None:
    """Each waits for the other; one after the other would never come to an end."""
    both = threading.Barrier(2, timeout=60)
    given = training(1, 1, compile=both.wait)

    def evaluate(state: int, trained: int | None) -> str:
        if trained is None:
            both.wait()
        return ""

    assert loop.train(given._replace(evaluate=evaluate), 0, 0, [], Clock()).round == 1


def test_nothing_is_compiled_when_all_rounds_are_done_and_the_clock_counts_the_rest() -> None:
    def refuse() -> None:
        raise AssertionError("compiled")

    clock = Clock()
    assert loop.train(training(3, 1, compile=refuse), 3, 3, [], clock).evaluated == "3 after None"
    assert not clock.seconds
    loop.train(training(3, 1), 0, 0, [], clock)
    assert set(clock.seconds) == {"compile", "evaluate"}


def test_what_fails_in_a_segment_reaches_the_caller_and_no_observer() -> None:
    seen: list[int] = []

    def fail(state: int, length: int) -> tuple[int, int]:
        raise ValueError("no number")

    given = training(3, 1)._replace(compile=lambda: fail)
    with pytest.raises(ValueError, match="no number"):
        loop.train(given, 0, 0, [lambda progress: seen.append(progress.round)], Clock())
    assert seen == [0]


def test_after_segments_leaves_out_the_start() -> None:
    seen: list[int] = []
    loop.train(training(3, 2), 0, 0, [observers.after_segments(lambda progress: seen.append(progress.round))], Clock())
    assert seen == [2, 3]
