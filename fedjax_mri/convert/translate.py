"""A run as a translator: its newest model, and its clients' models where they have their own."""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import restore
from fedjax_mri.run.models import clients, own
from fedjax_mri.run.restore import Restored
from fedjax_mri.tasks.task import Model, Task
from fedjax_mri.xai.layers import last_uses

DRAWS = 1000  # of a network with noise: more tell no more


class Translator(NamedTuple):
    """What `convert` needs of a model."""

    image: tuple[int, int, int]  # [H, W, C] that it works at
    window: tuple[float, float] | None  # HU; None: CT is a display picture in 0..1
    name: str
    # (to "ct" or "mr", the other modality [B, H, W, 1] in HU or 0..1, draw; None: the model itself) -> [B, H, W, 1]
    draw: Callable[[str, np.ndarray, int | None], np.ndarray]
    samples: int  # draws that differ, DRAWS of a network with noise; 0 where the model always says the same


def translate(run: pathlib.Path, to: str) -> Translator:
    """The translator to `to` that a run has trained, at its best where that was kept.

    Raises UserError where it has trained none.
    """
    this = restore.restore_kept(run)
    check(this, run, to)
    probe = filled("ct", np.zeros((1, *this.described.image), np.float32))
    models = [own(this), *clients(this, probe)]

    several, task = len(models) > 1, this.sim.task

    @partial(jax.jit, static_argnums=2)
    def predict(model: Model, batch: dict[str, jax.Array], to: str, key: jax.Array | None) -> jax.Array:
        made = task.predict(*model, batch) if key is None or task.draw is None else task.draw(*model, batch, key)
        return made[to]

    def draw(to: str, source: np.ndarray, sample: int | None) -> np.ndarray:
        model = models[sample + 1 if several and sample is not None else 0]
        key = None if several or sample is None else jax.random.key(sample)
        return np.asarray(predict(model, filled(to, source), to, key))

    window = getattr(this.config.task, "window", None)
    samples = len(models) - 1 if several else DRAWS * noisy(task, models[0], probe)
    return Translator(this.described.image, window, this.config.name, draw, samples)


def noisy(task: Task, model: Model, probe: dict[str, jax.Array]) -> bool:
    """Whether what the model makes depends on a key."""
    draw = task.draw
    if draw is None:
        return False
    program = jax.make_jaxpr(lambda key: draw(*model, probe, key))(jax.random.key(0))
    return program.jaxpr.invars[0] in last_uses(program)


def filled(to: str, source: np.ndarray) -> dict[str, jax.Array]:
    """A batch of the source [B, H, W, 1], and zeros for what is to be made."""
    batch = {"ct" if to == "mr" else "mr": source, to: np.zeros_like(source), "weight": np.ones(len(source))}
    return {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()}


def check(this: Restored, run: pathlib.Path, to: str) -> None:
    """Raises UserError unless the task makes `to`, of one channel, of the other modality."""
    image, task, kind = this.described.image, this.sim.task, type(this.config.task).__name__
    remedy = "give a run that translates between CT and MR"
    if image[2] != 1:
        raise UserError(f"{run}: its images have {image[2]} channels: {remedy} of one channel")
    batch = filled(to, np.zeros((1, *image), np.float32))
    model = jax.eval_shape(task.init, jax.random.key(0))
    try:
        made = jax.eval_shape(lambda model: task.predict(model.params, model.carry, batch), model)
    except KeyError as error:  # a field that batches of other tasks have
        raise UserError(f"{run}: its task, {kind}, wants {error}: {remedy}") from None
    if not (isinstance(made, dict) and to in made):
        raise UserError(f"{run}: its task, {kind}, makes no {to.upper()}: {remedy}")
