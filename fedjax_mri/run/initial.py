"""Where a model starts: at random weights, at a file of weights, or at another run's model (`init_from`).

A file is read by the rules of `nets/weights.py`. From another run, RUN or RUN/best, the part of its newest model that
travels is taken, whatever its algorithm was. The head keeps its random weights where classes differ: those of a file by
their number, those of a run by their names.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets import weights
from fedjax_mri.nets.weights import HEAD, Loaded
from fedjax_mri.run import runfolder
from fedjax_mri.run.checkpoint import Checkpoints, with_checkpoints
from fedjax_mri.tasks.task import Model, Task

Fill = Callable[[Model], Loaded]
SERVER_MODEL = "server.model."  # how the leaves of a checkpoint that travel are named


def with_initial_weights(source: str, classes: tuple[str, ...], task: Task) -> Task:
    """Returns `task` whose model starts at the weights at `source`; an empty `source` changes nothing.

    Raises UserError where the weights cannot be read or do not fit.
    """
    if not source:
        return task
    fill = weight_filler(source, task.network, classes, version(source))
    jax.eval_shape(lambda key: fill(task.init(key))[:2], jax.random.key(0))  # refuses now
    return task._replace(init=lambda key: Model(*fill(task.init(key))[:2]))


def notes(source: str, classes: tuple[str, ...], task: Task) -> tuple[str, ...]:
    """Returns a line for each part of the weights at `source` that was not taken as it stood there."""
    said = list[str]()
    if source:
        fill = weight_filler(source, task.network, classes, version(source))
        jax.eval_shape(lambda key: said.extend(fill(task.init(key)).notes), jax.random.key(0))
    return tuple(f"{source}: {note}" for note in said)


def version(source: str) -> Any:
    """Returns what changes when other weights are written at `source`: sizes and times of its newest files."""
    place = pathlib.Path(source).expanduser()
    files = [place] if place.is_file() else sorted((place / "checkpoints").glob("*"))
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@functools.cache  # several programs start from the same weights
def weight_filler(source: str, network: Any, classes: tuple[str, ...], version: Any) -> Fill:
    """Returns a function that puts the weights at `source` into a model that is one network of these settings.

    They are read once for each `version`.
    """
    place = pathlib.Path(source).expanduser()
    if not place.is_dir():
        tensors = weights.read(place)
        return lambda model: weights.load_into(*model, network, tensors, source)
    leaves = Checkpoints(with_checkpoints(place)).leaves()
    known = tuple(runfolder.read_json((place.parent if place.name == "best" else place) / "run.json")["classes"])
    return lambda model: fill_from_run(model, leaves, source, known == classes)


def fill_from_run(model: Model, leaves: dict[str, np.ndarray], source: str, with_head: bool) -> Loaded:
    """Returns `model` with the leaves of a run's checkpoint. Raises UserError where paths or shapes differ."""

    def leaf(path: Any, own: jax.Array) -> jax.Array:
        name = trees.name(path)
        value = leaves.get(SERVER_MODEL + name)
        if not with_head and set(HEAD) & set(name.split(".")):
            return own
        if value is not None and value.shape == own.shape:
            return jnp.asarray(value, own.dtype)
        found = f"has shape {value.shape} there" if value is not None else "does not travel there"
        raise UserError(f"{source}: {name}, here of shape {own.shape}, {found}: give a run of this very network")

    filled = jax.tree_util.tree_map_with_path(leaf, model)
    said = () if with_head else (f"{HEAD[0]}: of other classes: it stays",)
    return Loaded(filled.params, filled.carry, said)
