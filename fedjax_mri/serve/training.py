"""Trainings that the page starts: each is a `fedjax-mri train` in a process of its own, which outlives the server."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import config as configs
from fedjax_mri.serve import runs, store

TAIL = 15  # lines of its output that are shown
BYTES = 20_000  # of its output that are looked at
PROC = Path("/proc")


class Choice(NamedTuple):
    """An experiment of a config that users may train."""

    config: Path
    only: str  # its name, where the config has several
    takes_data: bool  # whether it reads a folder


class Training(NamedTuple):
    """A training that was started."""

    name: str  # of its run, below HOME/runs
    title: str
    user: str
    data: str
    process: int
    born: str  # when the process started, by the system's clock: numbers of processes are used again
    began: float


def choices(configs_: Mapping[str, Path]) -> dict[str, Choice]:
    """The experiments of configs by title. A config that cannot be loaded has none."""
    found: dict[str, Choice] = {}
    for name, path in configs_.items():
        with contextlib.suppress(UserError), runs.CONFIGS:
            for only, one in configs.load(path).items():
                found[f"{name}: {only}" if only else name] = Choice(path, only, hasattr(one.data, "root"))
    return found


def start(home: Path, title: str, choice: Choice, data: tuple[str, Path] | None, rounds: str, user: str) -> Training:
    """Starts a training. Raises UserError on rounds that are no number."""
    if rounds and not (rounds.isdecimal() and 0 < int(rounds) < 10**6):
        raise UserError(f"rounds {rounds}: give a whole number above 0, or nothing")
    name = f"{choice.config.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    words = [str(choice.config), "--out", str(home / "runs" / name)]
    words += ["--only", choice.only] if choice.only else []
    words += ["--data.root", str(data[1])] if data else []
    words += ["--rounds", rounds] if rounds else []
    (home / "trainings").mkdir(exist_ok=True)
    with (home / "trainings" / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedjax_mri", "train", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Training(name, title, user, data[0] if data else "", process.pid, born(process.pid), time.time())
    disk.write_json(home / "trainings" / f"{name}.json", found._asdict())
    return found


def born(process: int) -> str:
    """When a process started; "" where it is gone, or the system does not say."""
    try:
        return (
            (PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    except (OSError, IndexError):
        return ""


def runs_now(training: Training) -> bool:
    """Whether a training is still going on."""
    with contextlib.suppress(ChildProcessError):  # of an earlier server
        if os.waitpid(training.process, os.WNOHANG) != (0, 0):
            return False
    if PROC.exists():
        return bool(training.born) and born(training.process) == training.born
    try:
        os.kill(training.process, 0)
    except OSError:
        return False
    return True


def stop(training: Training) -> None:
    """Asks a training to save its state and end."""
    if runs_now(training):
        with contextlib.suppress(ProcessLookupError):
            os.kill(training.process, signal.SIGTERM)


def every(home: Path) -> list[Training]:
    """All trainings, the newest first."""
    paths = sorted((home / "trainings").glob("*.json"), reverse=True)
    return [Training(**found) for path in paths if (found := store.read(path))]


def find(home: Path, name: str) -> Training | None:
    """The training of that name; None where there is none."""
    return next((one for one in every(home) if one.name == name), None)


def words(home: Path, training: Training) -> list[str]:
    """The last lines that a training has printed, without the server's own folder."""
    try:
        with (home / "trainings" / f"{training.name}.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.replace(f"{home}/", "") for line in text.replace("\r", "\n").splitlines() if line.strip()][-TAIL:]
