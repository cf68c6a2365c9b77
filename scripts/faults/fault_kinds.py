"""What is done to a command, and what must then be seen: one function for each kind of fault.

Each is called with a command, a home and the folder of the trial, and raises AssertionError where the command does not
behave: results are complete or absent, an error is one line, and the same command brings the work to the same end.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fault_commands import Command, Home, Results, Seen, finish, interrupt, of_run, start, wait_until_begun
from random_kills import assert_complete, assert_same_so_far

JUMP = """
import time
real, first = time.time, time.monotonic()
time.time = lambda: real() + 86400 * (-1) ** int(time.monotonic() - first)  # a day forward or back, each second
"""
TINY_FILE = 2048  # bytes; no checkpoint, map or image is smaller


class Trial(NamedTuple):
    """A command that is tried in a folder of its own."""

    command: Command
    home: Home
    folder: pathlib.Path
    wanted: Results  # of the command when nothing disturbs it

    def words(self) -> list[str]:
        """Returns the words of the command."""
        return self.command.words(self.home, self.folder)

    def results(self, seen: Seen | None = None) -> Results:
        """Returns what the command has left by now."""
        return self.command.results(self.folder, seen)

    def assert_same_so_far(self) -> None:
        """Asserts that all that is there is whole, and as the command leaves it without a fault."""
        assert_same_so_far(self.results(), self.wanted, self.command.rounding)

    def assert_complete(self, seen: Seen) -> None:
        """Asserts that the command has come to its end, and all is there."""
        assert seen.code == 0, seen
        assert_complete(self.results(seen), self.wanted, self.command.rounding)


Fault = Callable[[Trial], None]


def prepare(trial: Trial) -> None:
    """Makes the folder of a trial, with what the command begins with."""
    trial.folder.mkdir(parents=True)
    if trial.command.begins_with:
        shutil.copytree(trial.home.folder / trial.command.begins_with, trial.folder / "run")


def left_alone(command: Command, home: Home) -> Results:
    """Returns the results of a command that nothing disturbs, of training with all checkpoints."""
    trial = Trial(command, home, home.folder / "undisturbed" / f"{command.name}-{home.processes}", {})
    prepare(trial)
    keep = ["--keep", "1000"] if command.results is of_run else []
    seen = home.call([*trial.words(), *keep])
    assert seen.code == 0, seen
    return trial.results(seen)


def assert_goes_on(trial: Trial) -> None:
    """Asserts that the same command, again, comes to the end that it would have come to without the fault."""
    seen = trial.home.call(trial.words())
    trial.assert_complete(seen)


def assert_one_line(seen: Seen, code: int, pattern: str) -> None:
    """Asserts an exit code, and one line on stderr that begins with "error: " and fits the pattern."""
    lines = [line for line in seen.errors.splitlines() if line.startswith("error: ")]
    assert seen.code == code and "Traceback" not in seen.errors + seen.said, seen
    assert len(lines) == 1 and re.search(pattern, lines[0]), seen


def interrupted(sent: signal.Signals) -> Fault:
    """Returns the fault that a signal is sent when the work has begun."""

    def act(trial: Trial) -> None:
        process = start(trial.words())
        wait_until_begun(trial.folder, trial.command.begun, process)
        seen = interrupt(process, sent)
        assert seen.code in (-sent, 128 + sent), seen
        assert "Traceback" not in seen.errors, seen
        trial.assert_same_so_far()
        assert_goes_on(trial)

    return act


def clock_jumps(trial: Trial) -> None:
    """Moves the clock a day forward and back each second, and the times of all files a day into the future."""
    for path in trial.folder.rglob("*"):
        later = path.stat().st_mtime + 86400
        os.utime(path, (later, later))
    shim = trial.home.folder / "clock"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(JUMP, encoding="utf-8")
    path = os.pathsep.join([str(shim), os.environ.get("PYTHONPATH", "")])
    seen = finish(start(trial.words(), {"PYTHONPATH": path}))
    trial.assert_complete(seen)
    assert_goes_on(trial)


def disk_full(trial: Trial) -> None:
    """Lets the disk run full; where no small disk can be mounted, no file may grow beyond a few bytes."""
    room = 4096 if trial.command.begun.startswith("made") else 64_000  # the first of several images, but no checkpoint
    with small_disk(trial.folder) as mounted:
        prepare_again(trial)
        filler = trial.folder / "filler"
        if mounted:
            filler.write_bytes(bytes(max(0, shutil.disk_usage(trial.folder).free - room)))
        seen = finish(start(trial.words(), largest_file=None if mounted else TINY_FILE))
        if trial.command.begun:
            assert_one_line(seen, 1, r"disk is full|[Ss]pace|[Tt]oo large|MB free")
        else:
            assert seen.code == 0, seen  # nothing is written
        trial.assert_same_so_far()
        filler.unlink(missing_ok=True)
        assert_goes_on(trial)


def prepare_again(trial: Trial) -> None:
    """Copies what the command begins with onto the small disk that lies over the trial's folder now."""
    if trial.command.begins_with and not (trial.folder / "run").exists():
        shutil.copytree(trial.home.folder / trial.command.begins_with, trial.folder / "run")


@contextlib.contextmanager
def small_disk(folder: pathlib.Path) -> Iterator[bool]:
    """Mounts a disk in memory on the folder; gives whether that is allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def loses_a_peer(trial: Trial) -> None:
    """Kills the second of two processes when the work has begun."""
    process = start(trial.words())
    wait_until_begun(trial.folder, trial.command.begun, process)
    peers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(peers) == 2, peers
    os.kill(int(peers[1]), signal.SIGKILL)
    seen = finish(process)
    assert seen.code == 128 + signal.SIGKILL, seen
    assert seen.errors.splitlines()[-1].startswith("error: process 1 was ended by SIGKILL"), seen
    trial.assert_same_so_far()
    assert_goes_on(trial)


def cut_in_half(path: pathlib.Path) -> None:
    """Cuts a file, or each file of a folder, in half."""
    for file in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
        os.truncate(file, file.stat().st_size // 2)


def damaged(name: str, says: str = "") -> Fault:
    """Returns the fault that a file below the trial's folder is cut in half: the last that fits the pattern `name`.

    The command must say one line that names the file and fits `says`, and go on when the file is whole again; without
    `says` it must do its work all the same.
    """

    def act(trial: Trial) -> None:
        found = max(trial.folder.glob(name), key=lambda path: (len(path.name), path.name))
        kept = trial.folder / "kept"
        (shutil.copytree if found.is_dir() else shutil.copy)(found, kept)
        cut_in_half(found)
        seen = trial.home.call(trial.words())
        if not says:
            assert seen.code == 0 and "Traceback" not in seen.errors, seen
            trial.assert_complete(seen)
            return
        assert_one_line(seen, 1, rf"{re.escape(found.name)}.*{says}")
        shutil.rmtree(found) if found.is_dir() else found.unlink()
        (shutil.copytree if kept.is_dir() else shutil.copy)(kept, found)
        assert_goes_on(trial)

    return act


def checkpoint_deleted(name: str) -> Fault:
    """Returns the fault of a damaged newest checkpoint, which the user deletes as the line says."""

    def act(trial: Trial) -> None:
        found = max(trial.folder.glob(name), key=lambda path: int(path.name))
        cut_in_half(found)
        assert_one_line(trial.home.call(trial.words()), 1, rf"{re.escape(str(found))}: .*damaged.*delete that folder")
        shutil.rmtree(found)
        assert_goes_on(trial)

    return act


def metrics_damaged(trial: Trial) -> None:
    """Cuts metrics.jsonl in half: the run goes on to the same end, and says which figures are lost."""
    cut_in_half(trial.folder / "run" / "metrics.jsonl")
    seen = trial.home.call(trial.words())
    assert seen.code == 0 and re.search("warning: .*metrics.jsonl: the lines after round .* are lost", seen.said), seen
    found = trial.results(seen)
    lost = {name for name in trial.wanted.keys() - found.keys() if name.startswith("line ")}
    assert 0 < len(lost) < 10, lost
    assert_complete(found, {name: value for name, value in trial.wanted.items() if name not in lost})


def cache_damaged(trial: Trial) -> None:
    """Cuts every file of the cache in half: compiled and traced programs, measured plans."""
    cache = trial.folder / "cache"
    shutil.copytree(pathlib.Path(os.environ["XDG_CACHE_HOME"]), cache)
    cut_in_half(cache)
    seen = finish(start(trial.words(), {"XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": str(cache / "xla")}))
    assert seen.code == 0 and "Traceback" not in seen.errors, seen
    trial.assert_complete(seen)


def lock_left(name: str) -> Fault:
    """Returns the fault that a folder has a lock file with nonsense in it that nobody holds."""

    def act(trial: Trial) -> None:
        folder = trial.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "lock").write_text("nonsense", encoding="utf-8")
        (folder / "lock.json").write_text('{"host": "nowh', encoding="utf-8")
        assert_goes_on(trial)

    return act
