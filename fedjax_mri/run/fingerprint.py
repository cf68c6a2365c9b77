"""The name of all that decides what a run's programs are: the same name, the same programs."""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from fedjax_mri.core import code_digest, code_installed
from fedjax_mri.data.contract import Test
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder

PACKAGE = pathlib.Path(__file__).parents[1]

Tests = Mapping[str, Test]


def of_run(config: configs.Experiment, plan: Plan, data: str, sim: Simulation, tests: Tests) -> str | None:
    """Returns the fingerprint of a run; None where a part of it cannot be looked into.

    It is a digest of the config and the files it names, the resolved plan, `data` as built, the devices, the packages,
    JAX's settings, and all code: the source of what is imported, and the functions, classes and values that `sim` and
    what reads `tests` reach.
    """
    built = reached(config, sim, tests)
    if built is None:
        return None
    settings = {name: str(value) for name, value in jax.config.values.items()}
    devices = (jax.default_backend(), jax.devices()[0].device_kind, jax.device_count(), jax.process_count())
    parts = (configs.to_dict(config), str(plan), data, runfolder.versions(), devices, settings)
    whole = json.dumps([*parts, list(named(config)), list(code()), built], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()


def reached(config: configs.Experiment, sim: Simulation, tests: Tests) -> str | None:
    """Returns a digest of what a run has built and of the engine as it is now.

    Examples are no part of it, as they are arguments of programs.
    """
    data = sim.data._replace(store=None, fetch=None)
    engine = (segments.build, evaluate.build, evaluate.few_examples, evaluate.showing_task)
    readers = [test.data.read for test in tests.values()]
    return code_digest.digest(config, sim._replace(data=data), readers, engine, code_installed.replaced_functions())


def named(config: Any) -> Iterator[tuple[str, int, int]]:
    """Yields path, bytes and time of change of each file that a field of `config` names.

    Where a field names a folder, these are all files below it.
    """
    for value in configs.flat(config).values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str | os.PathLike) and str(one):
                yield from sorted(found(pathlib.Path(one)))


def found(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    """Yields path, bytes and time of change of a file, or of all files below a folder; nothing where there is none."""
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if one.is_file():
            yield str(one), one.stat().st_size, one.stat().st_mtime_ns


def code() -> Iterator[str]:
    """Yields digests of this package's source, and of all modules in use that no package manager has installed."""
    files = {str(path) for path in PACKAGE.rglob("*.py")}
    modules = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    ours = {path for path in modules if path.endswith(".py") and not code_installed.is_installed_file(path)}
    texts = [pathlib.Path(path).read_bytes() for path in sorted(files | ours)]
    for text in texts:
        yield hashlib.sha256(text).hexdigest()
