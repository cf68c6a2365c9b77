"""Trainings that the page starts: each is a `fedjax-mri train` in a process of its own, which outlives the server."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import config as configs
from fedjax_mri.serve import store

TAIL = 15  # lines of its output that are shown
LAST_WORDS = ("report.html", "goes on from there", "ended by")  # of a training that has come to its end, or was stopped
LONGEST = 20_000  # characters of its output that are looked at


class Choice(NamedTuple):
    """Names an experiment of a config that users may train."""

    config: Path
    only: str  # its name, where the config has several
    takes_data: bool  # whether it reads a folder


class Training(NamedTuple):
    """Holds what is known of a training that was started."""

    name: str  # of its run, below HOME/runs
    title: str
    user: str
    data: str
    process: int
    started: float  # when the process started, by the system's clock: numbers of processes are used again


def choices(files: Sequence[Path]) -> dict[str, Choice]:
    """Returns the experiments of configs by title. Raises UserError on a config that cannot be loaded."""
    return {
        f"{file.stem}: {only}" if only else file.stem: Choice(file, only, hasattr(one.data, "root"))
        for file in files
        for only, one in configs.load(file).items()
    }


def start(home: Path, title: str, choice: Choice, data: tuple[str, Path] | None, rounds: str, user: str) -> Training:
    """Starts a training. Raises UserError on rounds that are no number."""
    if rounds and not (rounds.isdecimal() and 0 < int(rounds) < 10**6):
        raise UserError(f"rounds {rounds}: give a whole number above 0, or nothing")
    name = f"{choice.config.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    words = [str(choice.config), "--out", str(home / "runs" / name)]
    words += ["--only", choice.only] if choice.only else []
    words += ["--data.root", str(data[1])] if data else []
    words += ["--rounds", rounds] if rounds else []
    with (home / "trainings" / f"{name}.log").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "fedjax_mri", "train", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    training = Training(name, title, user, data[0] if data else "", process.pid, process.create_time())
    disk.write_json(home / "trainings" / f"{name}.json", training._asdict())
    return training


def process_of(training: Training) -> psutil.Process | None:
    """Returns the process of a training; None where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(training.process)
        same = abs(process.create_time() - training.started) < 1
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def is_running(training: Training) -> bool:
    """Returns whether a training is still going on."""
    return process_of(training) is not None


def state(home: Path, training: Training) -> str:
    """Returns "training", or after its end "ended", or "failed" where its last line says neither report nor stop."""
    if is_running(training):
        return "training"
    last = (output(home, training) or [""])[-1]
    return "ended" if not last.startswith("error:") and any(word in last for word in LAST_WORDS) else "failed"


def stop(training: Training) -> None:
    """Asks a training to save its state and end."""
    process = process_of(training)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()


def every(home: Path) -> list[Training]:
    """Returns all trainings, the newest first."""
    contents = filter(None, map(store.read, (home / "trainings").glob("*.json")))
    return sorted((Training(**content) for content in contents), key=lambda one: -one.started)


def output(home: Path, training: Training) -> list[str]:
    """Returns the last lines that a training has printed, without the server's own folder."""
    text = (home / "trainings" / f"{training.name}.log").read_text("utf-8", "replace")[-LONGEST:]
    return [line.replace(f"{home}/", "") for line in text.replace("\r", "\n").splitlines() if line.strip()][-TAIL:]
