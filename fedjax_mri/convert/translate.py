"""The translator that a run has trained: its global model, and its clients' models where they keep their own."""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import restore
from fedjax_mri.run.models import client_models, global_model
from fedjax_mri.run.restore import Restored
from fedjax_mri.tasks.task import Model, Task
from fedjax_mri.xai.layers import last_uses

DRAWS = 1000  # of a network with noise, at most; more draws add nothing


class Translator(NamedTuple):
    """A trained translator: what it makes of images, and how many draws it has."""

    image: tuple[int, ...]  # [H, W, C] that it works at
    window: tuple[float, float] | None  # HU; None: CT is a display picture in 0..1
    name: str
    # (to "ct" or "mr", the other modality [B, H, W, 1] in HU or 0..1, draw; None: the model itself) -> [B, H, W, 1]
    draw: Callable[[str, np.ndarray, int | None], np.ndarray]
    samples: int  # draws that differ, DRAWS of a network with noise; 0 where the model always says the same
    # (to, the other modality [B, H, W, 1]) -> what the model itself makes [B, H, W, 1]; to be traced, for explanations
    predict: Callable[[str, jax.Array], jax.Array] | None = None


def translate(run: pathlib.Path, to: str) -> Translator:
    """Returns the translator to the modality `to` that a run has trained, at its best round where that was kept.

    Raises UserError where it has trained none.
    """
    restored = restore.restore_best_or_newest(run)
    image, window = check_translates(restored, run, to)
    probe = batch_of("ct", np.zeros((1, *image), np.float32))
    models = [global_model(restored), *client_models(restored, probe)]

    several, task = len(models) > 1, restored.task

    @partial(jax.jit, static_argnums=2)
    def predict(model: Model, batch: dict[str, jax.Array], to: str, key: jax.Array | None) -> jax.Array:
        made = task.predict(*model, batch) if key is None or task.draw is None else task.draw(*model, batch, key)
        return made[to]

    def draw(to: str, source: np.ndarray, sample: int | None) -> np.ndarray:
        model = models[sample + 1 if several and sample is not None else 0]
        key = None if several or sample is None else jax.random.key(sample)
        return np.asarray(predict(model, batch_of(to, source), to, key))

    def traced(to: str, source: jax.Array) -> jax.Array:
        made: jax.Array = task.predict(*models[0], batch_of(to, source))[to]
        return made

    samples = len(models) - 1 if several else DRAWS * has_noise(task, models[0], probe)
    return Translator(image, window, restored.config.name, draw, samples, traced)


def has_noise(task: Task, model: Model, probe: dict[str, jax.Array]) -> bool:
    """Returns whether the images that the model makes depend on a random key."""
    draw = task.draw
    if draw is None:
        return False
    program = jax.make_jaxpr(lambda key: draw(*model, probe, key))(jax.random.key(0))
    return program.jaxpr.invars[0] in last_uses(program)


def batch_of(to: str, source: np.ndarray | jax.Array) -> dict[str, jax.Array]:
    """Returns a batch for a model that makes the modality `to`.

    It has the source [B, H, W, 1], and zeros for what is to be made.
    """
    batch = {"ct" if to == "mr" else "mr": source, to: np.zeros(source.shape), "weight": np.ones(len(source))}
    return {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()}


def check_translates(
    restored: Restored, run: pathlib.Path, to: str
) -> tuple[tuple[int, int, int], tuple[float, float] | None]:
    """Returns the shape [H, W, C] that the run's task works at, and its window of HU.

    Raises UserError unless the task makes the modality `to` from the other one, in one channel.
    """
    translation, kind = restored.task.translation, type(restored.config.task).__name__
    remedy = "give a run that translates between CT and MR"
    if translation is None or to not in translation.makes:
        raise UserError(f"{run}: its task, {kind}, makes no {to.upper()}: {remedy}")
    image = planar(restored.described.image, f"{run}: convert")
    if image[2] != 1:
        raise UserError(f"{run}: its images have {image[2]} channels: {remedy} of one channel")
    return image, translation.window
