"""The commands that faults are tried on: what each is given, what it leaves, and how it is started in a process."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import checkpoint, runfolder

TIMES = {"seconds", "clients_per_second", "images_per_second", "waited_share"}  # figures that no two runs share
Results = dict[str, Any]  # by a name: arrays by theirs, a line of figures, text


class Seen(NamedTuple):
    """What a command has said, and its exit code."""

    code: int
    said: str
    errors: str


Call = Callable[[Sequence[str]], Seen]


class Home(NamedTuple):
    """A folder with all that the commands need. `build` makes it."""

    folder: pathlib.Path
    config: pathlib.Path  # of the run that is trained
    study: pathlib.Path
    inputs: pathlib.Path  # images for `explain` and `convert`
    call: Call  # how commands are run that nothing interrupts
    processes: int = 1  # that train and evaluate


class Command(NamedTuple):
    """A command, and how to see what it has done in the folder of a trial."""

    name: str
    begins_with: str  # folder of `home` that is copied to <trial>/run first; "" if it needs none
    words: Callable[[Home, pathlib.Path], list[str]]
    begun: str  # a pattern of files below the trial's folder that are there when the work has begun
    results: Callable[[pathlib.Path, Seen | None], Results]
    rounding: float = 0.0  # by which figures may differ, as a share


def start(
    words: Sequence[str], environment: Mapping[str, str] | None = None, largest_file: int | None = None
) -> subprocess.Popen[str]:
    """Starts a command as a user does; with `largest_file`, it can write no file of more bytes."""
    limits = (largest_file, largest_file)
    return subprocess.Popen(
        [sys.executable, "-m", "fedjax_mri", *words],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits) if largest_file else None,
    )


def finish(process: subprocess.Popen[str], seconds: float = 600) -> Seen:
    """Waits for a command, and returns what it has said. One that takes longer is killed and raises AssertionError."""
    try:
        return finish_within(process, seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"the command did not end within {seconds:g} s") from None


def finish_within(process: subprocess.Popen[str], seconds: float) -> Seen:
    """Returns what a command has said. Raises TimeoutExpired where it takes longer, and leaves it running."""
    said, errors = process.communicate(timeout=seconds)
    return Seen(process.returncode, said, errors)


def call_process(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Seen:
    """Runs a command in a process of its own."""
    return finish(start(words, environment))


def wait_until_begun(folder: pathlib.Path, pattern: str, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Returns when a file of `pattern` is there or the process has ended; without a pattern, after two seconds."""
    end = time.monotonic() + (seconds if pattern else 2)
    while time.monotonic() < end and process.poll() is None and not (pattern and any(folder.glob(pattern))):
        time.sleep(0.02)


def interrupt(process: subprocess.Popen[str], sent: signal.Signals) -> Seen:
    """Sends a signal to a command, and returns what it has said."""
    process.send_signal(sent)
    return finish(process)


def untimed(line: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a line of metrics.jsonl without its times."""
    return {name: value for name, value in line.items() if name not in TIMES}


def of_run(trial: pathlib.Path, seen: Seen | None) -> Results:
    """Returns all arrays of each checkpoint, and each line of figures.

    A checkpoint that is not the newest may be in the middle of its removal, and is left out if it cannot be read.
    """
    run = trial / "run"
    if not (run / "checkpoints").is_dir():
        return {}
    saved = checkpoint.Checkpoints(run)
    lines: Results = {f"line {line['round']}": untimed(line) for line in runfolder.read_history(run)}
    for round in saved.rounds():
        try:
            lines[f"checkpoint {round}"] = saved._read(round)
        except UserError:
            if round == saved.latest():
                raise
    return lines


def of_study(trial: pathlib.Path, seen: Seen | None) -> Results:
    """Returns the lines of figures of each finished cell, but for the share of useful steps, which the lanes decide."""
    cells = (json.loads(path.read_text(encoding="utf-8")) for path in (trial / "study" / "cells").glob("*.json"))
    lines = {cell["id"]: [untimed(line) for line in cell["history"]] for cell in cells}
    return {name: [{**line, "useful_share": 1.0} for line in history] for name, history in lines.items()}


def of_evaluation(trial: pathlib.Path, seen: Seen | None) -> Results:
    """Returns the lines that were said."""
    return {} if seen is None or seen.code else {"said": seen.said.splitlines()}


def of_files(trial: pathlib.Path, seen: Seen | None) -> Results:
    """Returns the pixels, maps and tables that a command has made; of a page, whether it is whole."""
    readers: dict[str, Callable[[pathlib.Path], Any]] = {
        ".png": lambda path: np.asarray(Image.open(path)),
        ".npy": np.load,
        ".csv": lambda path: path.read_text(encoding="utf-8"),
        ".html": lambda path: path.read_text(encoding="utf-8").rstrip().endswith("</html>"),
    }
    files = (path for path in (trial / "made").rglob("*") if path.is_file())
    return {str(path.relative_to(trial)): readers[path.suffix](path) for path in files}


def training(home: Home, trial: pathlib.Path) -> list[str]:
    """Returns the words of `train`."""
    return ["train", str(home.config), "--out", str(trial / "run"), *several(home)]


def several(home: Home) -> list[str]:
    """Returns the flags of a command that runs as several processes."""
    return ["--processes", str(home.processes), "--heartbeat", "10"] if home.processes > 1 else []


def explaining(home: Home, trial: pathlib.Path) -> list[str]:
    """Returns the words of `explain`."""
    out = str(trial / "made")
    return ["explain", str(trial / "run"), str(home.inputs), "--methods", "gradinput", "--force", "--out", out]


COMMANDS = (
    Command("train", "", training, "run/checkpoints/[0-9]*", of_run),
    Command("resume", "half", training, "run/checkpoints/[3-9][0-9]", of_run),
    Command(
        "sweep",
        "",
        lambda home, trial: ["sweep", str(home.study), "--out", str(trial / "study")],
        "study/cells/*.json",
        of_study,
        rounding=1e-3,  # a cell that is trained without the others of its program is compiled otherwise
    ),
    Command(
        "evaluate",
        "run",
        lambda home, trial: ["evaluate", str(trial / "run"), *several(home)],
        "",
        of_evaluation,
    ),
    Command(
        "convert",
        "translator",
        lambda home, trial: [
            *("convert", str(trial / "run"), str(home.inputs), "--to", "mr", "--force", "--out", str(trial / "made"))
        ],
        "made/*",
        of_files,
    ),
    Command("explain", "run", explaining, "made/*/*", of_files),
)
