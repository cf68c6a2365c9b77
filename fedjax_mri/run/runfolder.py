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
RUN/report.html
"""

import importlib.metadata
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
from fedjax_mri.data.contract import Federation
from fedjax_mri.run import config as configs
from fedjax_mri.run import processes

# What may differ when a run is continued: none of it changes what a round does.
FREE = ("rounds", "plan", "keep", "early", "pictures", "explanations")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "dm-pix", "numpy")


def cache() -> pathlib.Path:
    """Where compiled programs and measured plans are kept between runs."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "fedjax_mri"


def read_json(path: pathlib.Path) -> Any:
    """Raises UserError when the file is missing or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; is {path.parent} a run folder?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def claim(run: pathlib.Path, config: configs.Experiment) -> None:
    """Makes the run folder this config's. Raises UserError, naming what differs, when it is another's."""
    if not processes.main():
        return
    run.mkdir(parents=True, exist_ok=True)
    path = run / "config.json"
    if path.exists():
        differing = differences(read_config(run), config)
        if differing:
            raise UserError(f"{run}: holds a run of another config ({'; '.join(differing)}); choose another --out")
    disk.write_json(path, configs.to_dict(config))


def found(run: pathlib.Path) -> None:
    """Raises UserError when this process does not see what process 0 has claimed."""
    if not (run / "config.json").exists():
        raise UserError(
            f"{run}: not the folder that process 0 writes; give an --out on a disk that all processes share"
        )


def read_config(run: pathlib.Path) -> configs.Experiment:
    """The config a run was started with."""
    return configs.from_dict(read_json(run / "config.json"))


def differences(before: configs.Experiment, now: configs.Experiment, free: Sequence[str] = FREE) -> list[str]:
    """Fields whose change would make another experiment, as "name: before -> now"."""
    old, new = configs.flat(before), configs.flat(now)
    names = [name for name in {**old, **new} if name.split(".")[0] not in free]
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def facts(
    config: configs.Experiment, plan: Any, federation: Federation, described: Any, headline: Sequence[str]
) -> dict[str, Any]:
    """What run.json says; `described` is all that must be known of the data to rebuild the model without it."""
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
    """What is installed of the packages that a result may depend on."""
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

    Process 0 writes them; in the others this only remembers.
    """

    def __init__(self, run: pathlib.Path, round: int) -> None:
        self.path = run / "metrics.jsonl"
        self.history = [line for line in read_history(run) if line["round"] <= round]
        self._events: Any = None
        if not processes.main():
            return
        from tensorboardX import SummaryWriter

        disk.write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.history))
        self._events = SummaryWriter(str(run), purge_step=round + 1)

    def write(self, line: Mapping[str, float]) -> None:
        """One segment's figures; on disk when this returns."""
        self.history.append(dict(line))
        if self._events is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in line.items():
            self._events.add_scalar(name, value, int(line["round"]))
        self._events.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._events is not None:
            self._events.close()


def read_history(run: pathlib.Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; a last line cut short by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A compressed .npz, whole or not at all."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(draft, path)
