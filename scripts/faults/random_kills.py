"""A run that is killed at random moments of its life, and started again each time, is compared with one left alone."""

import pathlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import fault_commands as commands
import numpy as np

from fedjax_mri.core.errors import UserError

# (folder of the run, more flags) -> words of the command that trains there
Train = Callable[[pathlib.Path, list[str]], list[str]]


class Outcome(NamedTuple):
    """What became of the runs that were killed."""

    kills: int
    identical: int  # kills after which the run came to the same end to the last bit
    runs: int  # that were brought to their end


def kill_at_random(
    train: Train, home: pathlib.Path, kills: int, seed: int = 0, say: Callable[[str], None] = print
) -> Outcome:
    """Kills training `kills` times, at moments drawn from the whole life of a process, and lets each run end.

    After each kill, what is on disk must be what the undisturbed run had at that round. What is not as it should be
    is said, and its kills do not count as identical.
    """
    whole, seconds = train_undisturbed(train, home)
    chance, made, identical, runs = random.Random(seed), 0, 0, 0
    while made < kills:
        folder = home / f"killed-{runs}"
        before, runs = made, runs + 1
        try:
            for moment in until_ended(train, folder, chance, seconds, kills - made):
                made += 1
                say(f"kill {made} of {kills}: after {moment:.1f} s, {newest(folder)}")
                assert_same_so_far(commands.of_run(folder, None), whole)
            assert_complete(commands.of_run(folder, None), whole)
            identical += made - before
        except (AssertionError, UserError) as error:
            say(f"failed: {folder}: {error}")
    return Outcome(made, identical, runs)


def until_ended(
    train: Train, folder: pathlib.Path, chance: random.Random, seconds: float, most: int
) -> Iterator[float]:
    """Kills a run at random moments until it has ended or was killed `most` times; yields each moment, in seconds.

    It is brought to its end then.
    """
    for _ in range(most):
        moment = chance.uniform(0, seconds)
        if ended_within(moment, train(folder / "run", [])):
            return
        yield moment
    seen = commands.call_process(train(folder / "run", []))
    assert seen.code == 0, seen


def train_undisturbed(train: Train, home: pathlib.Path) -> tuple[commands.Results, float]:
    """Returns all checkpoints and lines of a run that is left alone, and the seconds that one takes from start to end.

    The first of two runs fills the caches, so that the time is that of the runs that are killed.
    """
    for name in ("first", "whole"):
        begun = time.monotonic()
        seen = commands.call_process(train(home / name / "run", ["--keep", "1000"]))
        assert seen.code == 0, seen
    return commands.of_run(home / "whole", None), time.monotonic() - begun


def ended_within(seconds: float, words: list[str]) -> bool:
    """Starts a command; kills it after that time and returns False, unless it has ended by then."""
    process = commands.start(words)
    try:
        seen = commands.finish_within(process, seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert seen.code == 0, seen
    return True


def newest(folder: pathlib.Path) -> str:
    """Says how far a run has come."""
    rounds = [int(path.name) for path in (folder / "run" / "checkpoints").glob("*") if path.name.isdecimal()]
    return f"round {max(rounds)} is saved" if rounds else "nothing is saved"


def same(found: object, wanted: object, rounding: float = 0.0) -> bool:
    """Returns whether two results are equal to the last bit, or up to `rounding`, as a share, in each number."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[name], wanted[name], rounding) for name in found)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(same(*pair, rounding) for pair in zip(found, wanted))
    if isinstance(found, np.ndarray):
        return np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f")
    if rounding and isinstance(found, float) and isinstance(wanted, float):
        return bool(np.isclose(found, wanted, rtol=rounding, atol=rounding))
    return found == wanted


def assert_same_so_far(found: commands.Results, whole: commands.Results, rounding: float = 0.0) -> None:
    """Asserts that nothing is there that an undisturbed command does not leave."""
    for name, value in found.items():
        assert name in whole, f"{name} is in no undisturbed run"
        assert same(value, whole[name], rounding), f"{name} differs from that of the undisturbed run"


def assert_complete(found: commands.Results, whole: commands.Results, rounding: float = 0.0) -> None:
    """Asserts that all is there, of a run's checkpoints at least the last."""
    assert_same_so_far(found, whole, rounding)
    rounds = [int(name.split()[1]) for name in whole if name.startswith("checkpoint ")]
    last = {f"checkpoint {max(rounds)}"} if rounds else set()
    missing = ({name for name in whole if not name.startswith("checkpoint ")} | last) - found.keys()
    assert not missing, f"missing: {', '.join(sorted(missing))}"
