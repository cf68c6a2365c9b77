"""The classifier that a run has trained; several runs of one task are an ensemble that predicts the mean."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core.checks import planar
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.metrics import ensemble, temperature
from fedjax_mri.run import config as configs
from fedjax_mri.run import reference, restore, runfolder
from fedjax_mri.run.models import classifier, global_model
from fedjax_mri.run.restore import Restored
from fedjax_mri.tasks.task import Model

Logits = Callable[[Model, jax.Array], jax.Array]  # preprocessed images [B, S, S, C] -> logits [B, K]


class Trained(NamedTuple):
    """The classifiers of one run, or of several runs as an ensemble."""

    runs: tuple[Path, ...]
    name: str
    classes: tuple[str, ...]
    image: tuple[int, int, int]  # [H, W, C] as read
    data: DataDescription  # that they were trained on
    synthetic: bool  # whether these data are
    resizes: bool  # whether `preprocess` brings images of any size to one
    preprocess: Callable[[jax.Array], jax.Array]  # images as read -> as the network sees them [B, S, S, C]
    logits: Logits  # of the network of one model, which is what methods explain
    # models, preprocessed images -> logits [B, K] of their prediction, as the task makes it; compiled
    predict: Callable[[Sequence[Model], jax.Array], jax.Array]
    # the first model, images as read -> their descriptions [B, d] by kind, as `reference` makes them; compiled
    describe: Callable[[Model, jax.Array], dict[str, jax.Array]]
    models: list[Model]


def load(runs: Sequence[Path]) -> Trained:
    """Returns the classifiers of runs, each at its best round where that was kept.

    Raises UserError where one is no classifier, or not of the first one's task, classes and images.
    """
    found = [restore.restore_best_or_newest(run) for run in runs]
    for run, restored in zip(runs, found):
        check_same_task(run, restored, runs[0], found[0])
    first = found[0]
    steps = classifier(first, runs[0])

    def logits(model: Model, x: jax.Array) -> jax.Array:
        return steps.logits(model.params, model.carry, x)

    def predicted(model: Model, x: jax.Array) -> jax.Array:
        return steps.predict_logits(model.params, model.carry, x)

    return Trained(
        runs=tuple(runs),
        name=first.config.name,
        classes=first.described.classes,
        image=planar(first.described.image, f"{runs[0]}: explain"),
        data=first.described,
        synthetic=runfolder.read_json(runs[0] / "run.json")["synthetic"],
        resizes=steps.resizes,
        preprocess=jax.jit(steps.preprocess),
        logits=logits,
        predict=jax.jit(partial(mean_prediction, predicted)),
        describe=jax.jit(lambda model, images: reference.describe(steps, model.params, model.carry, images)),
        models=[global_model(restored) for restored in found],
    )


def check_same_task(run: Path, restored: Restored, other: Path, first: Restored) -> None:
    """Raises UserError unless both runs classify the same images into the same classes by the same task."""
    classifier(restored, run)
    for name, ours, theirs in (
        ("task", configs.to_dict(restored.config.task), configs.to_dict(first.config.task)),
        ("classes", restored.described.classes, first.described.classes),
        ("images", restored.described.image, first.described.image),
    ):
        if ours != theirs:
            raise UserError(f"{run}: its {name} are not those of {other}: an ensemble needs runs of one task")


def mean_prediction(logits: Logits, models: Sequence[Model], x: jax.Array) -> jax.Array:
    """Returns the logits [B, K] of the models' mean prediction; of a single model its own."""
    each = [logits(model, x) for model in models]
    if len(each) == 1:
        return each[0]
    return temperature.logits(ensemble.mean(jnp.stack([jax.nn.softmax(one) for one in each])))
