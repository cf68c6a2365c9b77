"""The files of a run: what was run, where, and how it went.

RUN/config.json         the resolved config
RUN/run.json            versions, git state, device, plan; classes and partition
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

import importlib.metadata
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import DataDescription, Federation
from fedjax_mri.run import config as configs
from fedjax_mri.run import processes
from fedjax_mri.run.line import Line, flat, parse

# What may differ when a run is continued: none of it changes what a round does.
CHANGEABLE = ("rounds", "plan", "keep", "early", "pictures", "explanations")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "dm-pix", "numpy")


def cache() -> pathlib.Path:
    """The folder in which compiled programs and measured plans are kept between runs."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "fedjax_mri"


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file. Raises UserError when it is missing or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; is {path.parent} a run folder?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def create(run: pathlib.Path, config: configs.Experiment) -> None:
    """Creates the folder of a run with its config. Raises UserError, naming what differs, when another run is there."""
    if not processes.main():
        return
    run.mkdir(parents=True, exist_ok=True)
    path = run / "config.json"
    if path.exists():
        differing = differences(read_config(run), config)
        if differing:
            raise UserError(f"{run}: holds a run of another config ({'; '.join(differing)}); choose another --out")
    disk.write_json(path, configs.to_dict(config))


def refuse_unshared(run: pathlib.Path) -> None:
    """Raises UserError when this process does not see the folder that process 0 has created."""
    if not (run / "config.json").exists():
        raise UserError(
            f"{run}: not the folder that process 0 writes; give an --out on a disk that all processes share"
        )


def read_config(run: pathlib.Path) -> configs.Experiment:
    """The config a run was started with."""
    return configs.from_dict(read_json(run / "config.json"))


def differences(before: configs.Experiment, now: configs.Experiment, ignored: Sequence[str] = CHANGEABLE) -> list[str]:
    """The fields in which two configs differ, as "name: before -> now", but for sections that are `ignored`."""
    old, new = configs.flat(before), configs.flat(now)
    names = [name for name in {**old, **new} if name.split(".")[0] not in ignored]
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def facts(
    config: configs.Experiment, plan: Any, federation: Federation, described: DataDescription, headline: Sequence[str]
) -> dict[str, Any]:
    """The content of run.json; `described` is what must be known of the data to rebuild the model without them."""
    return {
        "name": config.name,
        "hash": configs.digest(config),
        "environment": environment(plan),
        **described._asdict(),
        "synthetic": federation.synthetic,
        "warnings": federation.warnings,
        "headline": headline,
        "tables": [table._asdict() for table in federation.tables],
    }


def description(saved: Mapping[str, Any]) -> DataDescription:
    """The description of the data that `facts` has put into run.json, lists as tuples again."""
    known = [name for name in DataDescription._fields if name in saved]
    values: Any = {name: tuple(saved[name]) if isinstance(saved[name], list) else saved[name] for name in known}
    return DataDescription(**values)


def environment(plan: Any) -> dict[str, str]:
    """Versions, machine, device, plan and git state of this process."""
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


def versions() -> dict[str, str]:
    """The installed versions of the packages that a result may depend on."""
    return {name: _version(name) for name in ("fedjax-mri", *PACKAGES)}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git() -> str:
    home = pathlib.Path(__file__).parent
    asked = ["git", "-C", str(home), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
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
        if not processes.main():
            return
        from tensorboardX import SummaryWriter

        disk.write_text(self.path, "".join(json.dumps(values) + "\n" for values in lines))
        self._events = SummaryWriter(str(run), purge_step=round + 1)

    def write(self, line: Line) -> None:
        """Adds the line; it is on disk when this returns."""
        self.history.append(line)
        if self._events is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(flat(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in flat(line).items():
            self._events.add_scalar(name, value, line.round)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()


def read_history(run: pathlib.Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl as they lie there, figures by name; `results.history` gives them as `Line`s.

    A last line cut short by a crash is left out.
    """
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz; after a crash the file is either the old one or the new one."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    disk.write_bytes(path, file.getvalue())
