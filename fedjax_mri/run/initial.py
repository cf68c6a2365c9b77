"""Where a model starts: drawn at random, or from a file of weights, or from another run (`init_from`).

A file is taken by the rules of `nets/weights.py`. Of another run, RUN or RUN/best, it is what travels of its newest
model, whatever its algorithm was. The head stays as it was drawn where classes differ: in a file by their number, in a
run by their names.
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
from fedjax_mri.run.checkpoint import Checkpoints, existing
from fedjax_mri.tasks.task import Model, Task

Fill = Callable[[Model], Loaded]
SENT = "server.model."  # of a checkpoint's leaves, those that travel


def begun(source: str, network: Any, classes: tuple[str, ...], task: Task) -> Task:
    """`task` whose model begins with the weights at `source`. Raises UserError where they cannot be read or do not fit.

    `network` is the settings of the network that is all of the task's model; a file's weights need it.
    """
    if not source:
        return task
    fill = filler(source, network, classes)
    jax.eval_shape(lambda key: fill(task.init(key))[:2], jax.random.key(0))  # refuses now
    return task._replace(init=lambda key: Model(*fill(task.init(key))[:2]))


def notes(source: str, network: Any, classes: tuple[str, ...], task: Task) -> tuple[str, ...]:
    """What of the weights at `source` was not taken as it stood there."""
    said = list[str]()
    if source:
        fill = filler(source, network, classes)
        jax.eval_shape(lambda key: said.extend(fill(task.init(key)).notes), jax.random.key(0))
    return tuple(f"{source}: {note}" for note in said)


@functools.cache  # several programs start from the same weights
def filler(source: str, network: Any, classes: tuple[str, ...]) -> Fill:
    """What puts the weights at `source` into a model of these classes."""
    place = pathlib.Path(source).expanduser()
    if not place.is_dir():
        tensors = weights.read(place)
        return lambda model: weights.load_into(*model, network, tensors, source)
    leaves = Checkpoints(existing(place)).leaves()
    known = tuple(runfolder.read_json((place.parent if place.name == "best" else place) / "run.json")["classes"])
    return lambda model: of_run(model, leaves, source, known == classes)


def of_run(model: Model, leaves: dict[str, np.ndarray], source: str, with_head: bool) -> Loaded:
    """`model` with the leaves of a run's checkpoint, of the same paths and shapes."""

    def leaf(path: Any, own: jax.Array) -> jax.Array:
        name = trees.name(path)
        value = leaves.get(SENT + name)
        if not with_head and set(HEAD) & set(name.split(".")):
            return own
        if value is not None and value.shape == own.shape:
            return jnp.asarray(value, own.dtype)
        found = f"has shape {value.shape} there" if value is not None else "does not travel there"
        raise UserError(f"{source}: {name}, here of shape {own.shape}, {found}: give a run of this very network")

    filled = jax.tree_util.tree_map_with_path(leaf, model)
    said = () if with_head else (f"{HEAD[0]}: of other classes: it stays",)
    return Loaded(filled.params, filled.carry, said)
