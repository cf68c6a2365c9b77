"""The name of all that decides what a run's programs are: the same name, the same programs."""

import hashlib
import json
import os
import pathlib
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

import jax

from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder

PACKAGE = pathlib.Path(__file__).parents[1]
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def of_run(config: configs.Experiment, plan: Plan, data: str) -> str:
    """Of the config and the files it names, the resolved plan, `data` as built, the code, the packages, the devices
    and JAX's settings."""
    settings = {name: str(value) for name, value in jax.config.values.items()}
    devices = (jax.default_backend(), jax.devices()[0].device_kind, jax.device_count(), jax.process_count())
    parts = (configs.to_dict(config), str(plan), data, runfolder.versions(), devices, settings)
    whole = json.dumps([*parts, list(named(config)), list(code())], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()


def named(config: Any) -> Iterator[tuple[str, int, int]]:
    """Path, bytes and time of change of each file that a field of `config` names, or that lies in a folder it names."""
    for value in configs.flat(config).values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str | os.PathLike) and str(one):
                yield from sorted(found(pathlib.Path(one)))


def found(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    """Of a file, or of all files below a folder; of nothing, where there is none."""
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if one.is_file():
            yield str(one), one.stat().st_size, one.stat().st_mtime_ns


def code() -> Iterator[str]:
    """Digests of this package's source, and of all modules in use that no package manager has installed."""
    files = {str(path) for path in PACKAGE.rglob("*.py")}
    modules = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    ours = {path for path in modules if path.endswith(".py") and not path.startswith(INSTALLED)}
    for path in sorted(files | ours):
        yield hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
