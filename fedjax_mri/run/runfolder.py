"""The files of a run: what was run, where, and how it went.

RUN/config.json         the resolved config
RUN/run.json            versions, git state, device, plan; classes, partition and digests of the data
RUN/code/               copies of the config file and of the user's modules that the config needs
RUN/lock, lock.json     which process writes the folder
RUN/metrics.jsonl       one line a segment
RUN/events.*            the same for TensorBoard
RUN/checkpoints/        by Orbax
RUN/best/               the best of them, where `early` says what is best
RUN/pictures/           a few examples after each evaluation, where `pictures` asks for them
RUN/explanations.npz    maps of a few test examples by each kept state, where `explanations` asks for them
RUN/results.npz         final tallies and predictions
RUN/reference.npz       what a classifier's images look like, by which `explain` knows unlike ones
RUN/report.html
"""

import functools
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_mri.core import disk, modules
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data.contract import DataDescription, Federation
from fedjax_mri.run import config as configs
from fedjax_mri.run import processes
from fedjax_mri.run.data_digest import DataDigest
from fedjax_mri.run.line import LogEntry, flat, parse, with_nans, with_nulls

CODE = "code"
FILES = (  # that a run writes, and a run in its place would write again
    "run.json",
    "metrics.jsonl",
    "timings.json",
    "results.npz",
    "explanations.npz",
    "reference.npz",
    "report.html",
)
NEEDED = {  # what a file must hold to be one of ours
    "config.json": ("class", "data", "rounds", "local", "algorithm"),
    "run.json": ("name", "classes"),
    "study.json": ("base", "axes", "cells"),
    "timings.json": (),
}
OF_CELL = ("id", "where", "synthetic", "history")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "dm-pix", "numpy")


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file of a run or a study.

    Raises UserError when it is missing, or is not what it was.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; is {path.parent} a run folder?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({short_message(error)}); {remedy(path)}") from None
    lacking = [name for name in NEEDED.get(path.name, OF_CELL) if not isinstance(content, dict) or name not in content]
    if lacking or not isinstance(content, dict):
        raise UserError(f"{path}: cannot be read, as it lacks {', '.join(lacking) or 'names'}; {remedy(path)}")
    return content


def remedy(path: pathlib.Path) -> str:
    """Returns what to do about a damaged JSON file."""
    if path.name == "timings.json":
        return "delete it, and run `fedjax-mri train` again to finish the run"
    if path.name in NEEDED:
        return "put back a copy of it, or choose another --out"
    return "delete it, and run `fedjax-mri sweep` again to train this cell"


def write_config(run: pathlib.Path, config: configs.Experiment, say: Callable[[str], None]) -> None:
    """Writes config.json, and copies of the user's source files that the config needs; says which have changed."""
    for name in modules.use_homes(configs.classes(config)):
        say(f"warning: {name} is in no file: this run can be continued in this session alone, and not evaluated later")
    plain = configs.to_dict(config)
    disk.write_json(run / "config.json", plain)  # first: by it the folder is known as a run's
    files = modules.sources(configs.module_names(plain))
    for path, file in files.items():
        copy, text = run / CODE / path, file.read_bytes()
        if copy.exists() and copy.read_bytes() != text:
            say(f"warning: {file} has changed since this run began; it goes on with the new one")
        copy.parent.mkdir(parents=True, exist_ok=True)
        disk.write_bytes(copy, text)


def clear(run: pathlib.Path) -> None:
    """Removes what a run that has saved no checkpoint has left in its folder."""
    for name in ("best", "pictures", "checkpoints", CODE):
        shutil.rmtree(run / name, ignore_errors=True)
    for file in (*(run / name for name in FILES), *run.glob("events.out.tfevents.*")):
        file.unlink(missing_ok=True)


def refuse_foreign(run: pathlib.Path) -> None:
    """Raises UserError when a folder that no run has written holds what a run would write."""
    names = ("config.json", "best", "pictures", "checkpoints", CODE, *FILES)
    there = [name for name in names if (run / name).exists()]
    if there and not is_run(run):
        raise UserError(f"{run}: holds {there[0]}, which no run has written; choose another --out")


def is_run(run: pathlib.Path) -> bool:
    """Returns whether a folder holds the config of a run."""
    try:
        return "rounds" in read_json(run / "config.json")
    except UserError:
        return False


def refuse_unshared(run: pathlib.Path) -> None:
    """Raises UserError when this process does not see the folder that process 0 writes."""
    if not (run / "lock.json").exists():
        raise UserError(
            f"{run}: not the folder that process 0 writes; give an --out on a disk that all processes share"
        )


def read_config(run: pathlib.Path, without: Sequence[str] = ()) -> configs.Experiment:
    """Returns the config a run was started with.

    Its sections `without` are not read, and have their defaults. The user's classes in it are those of the copies that
    the run keeps.
    """
    sections = read_json(run / "config.json")
    with modules.copies_in(run / CODE):
        return configs.from_dict({name: value for name, value in sections.items() if name not in without})


def facts(
    config: configs.Experiment,
    plan: Any,
    federation: Federation,
    described: DataDescription,
    digest: DataDigest,
    headline: Sequence[str],
) -> dict[str, Any]:
    """Returns the content of run.json.

    `described` is what must be known of the data to rebuild the model without them.
    """
    return {
        "name": config.name,
        "hash": configs.digest(config),
        "environment": environment(plan),
        **described._asdict(),
        "data": digest._asdict(),
        "numerics": numerics(),
        "synthetic": federation.synthetic,
        "warnings": federation.warnings,
        "headline": headline,
        "tables": [table._asdict() for table in federation.tables],
    }


def description(saved: Mapping[str, Any]) -> DataDescription:
    """Returns the description of the data that `facts` has put into run.json, lists as tuples again."""
    known = [name for name in DataDescription._fields if name in saved]
    values: Any = {name: tuple(saved[name]) if isinstance(saved[name], list) else saved[name] for name in known}
    return DataDescription(**values)


def environment(plan: Any) -> dict[str, str]:
    """Returns the versions, machine, device, plan and git state of this process."""
    device = jax.devices()[0]
    return {
        "command": " ".join([pathlib.Path(sys.argv[0]).name.replace("__main__.py", "fedjax-mri"), *sys.argv[1:]]),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processes": str(jax.process_count()),
        "cores": str(os.cpu_count()),
        "plan": str(plan),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "git": _git(),
        **versions(),
    }


def numerics() -> dict[str, str]:
    """Returns the settings of JAX that decide which random numbers are drawn, and how products are rounded."""
    names = ("jax_default_prng_impl", "jax_threefry_partitionable", "jax_default_matmul_precision")
    return {name: str(jax.config.values.get(name)) for name in names}


def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that a result may depend on."""
    return {name: _version(name) for name in ("fedjax-mri", *PACKAGES)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git() -> str:
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    run = functools.partial(subprocess.run, capture_output=True, encoding="utf-8", errors="replace", check=True)
    try:
        run([*git, "ls-files", "--error-unmatch", pathlib.Path(__file__).name])  # a wheel may lie in another repository
        return run([*git, "describe", "--always", "--dirty", "--abbrev=12"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


class Log:
    """metrics.jsonl and TensorBoard events, cut back to `round` so that a continued run repeats no line.

    Only process 0 writes them; in other processes this only keeps the history.
    """

    def __init__(self, run: pathlib.Path, round: int) -> None:
        self.path = run / "metrics.jsonl"
        lines = [values for values in read_history(run) if values["round"] <= round]
        self.history = [parse(values) for values in lines]
        self._events: Any = None
        if not processes.is_main_process():
            return
        from tensorboardX import SummaryWriter

        disk.write_text(self.path, "".join(json_line(values) for values in lines))
        self._events = SummaryWriter(str(run), purge_step=round + 1)

    def write(self, line: LogEntry) -> None:
        """Adds the line; it is on disk when this returns."""
        self.history.append(line)
        if self._events is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json_line(flat(line)))
            file.flush()
            os.fsync(file.fileno())
        for name, value in with_nulls(flat(line)).items():
            if value is not None:  # TensorBoard draws no undefined figure, and warns of each
                self._events.add_scalar(name, value, line.round)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()


def json_line(values: Mapping[str, float]) -> str:
    """Returns one line of metrics.jsonl, in strict JSON."""
    return json.dumps(with_nulls(values), allow_nan=False) + "\n"


def read_history(run: pathlib.Path) -> list[dict[str, float]]:
    """Returns the lines of metrics.jsonl as they lie there, figures by name; `results.history` gives `LogEntry`s.

    A last line cut short by a crash is left out. Raises UserError where another line cannot be read.
    """
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    if lines and not lines[-1].endswith(b"}"):
        lines.pop()
    return [read_line(path, number, line) for number, line in enumerate(lines, 1)]


def read_line(path: pathlib.Path, number: int, line: bytes) -> dict[str, float]:
    """Returns the figures of one line of metrics.jsonl, nan where undefined.

    Raises UserError where the line is damaged.
    """
    try:
        values = json.loads(line)
        values["round"] + 0
    except (ValueError, KeyError, TypeError):
        remedy = "put the file back as it was, or delete that line to go on without its figures"
        raise UserError(f"{path}: line {number} is damaged; {remedy}") from None
    return with_nans(values)


def say_missing_lines(run: pathlib.Path, round: int, say: Callable[[str], None]) -> None:
    """Says so where metrics.jsonl does not reach to `round`, that of a checkpoint: lines of it were lost."""
    rounds = [line["round"] for line in read_history(run)]
    if round not in rounds:
        before = [one for one in rounds if one < round]
        lost = f"after round {max(before)} up to" if before else "up to"
        say(f"warning: {run / 'metrics.jsonl'}: the lines {lost} round {round} are lost; the run goes on without them")


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz; after a crash the file is either the old one or the new one."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    disk.write_bytes(path, file.getvalue())
