"""A run as a classifier; several of the same task are an ensemble, whose prediction is the mean."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.metrics import ensemble, temperature
from fedjax_mri.run import restore, runfolder
from fedjax_mri.run.models import classifier, own
from fedjax_mri.run.restore import Restored
from fedjax_mri.tasks.task import Model

Apply = Callable[[Model, jax.Array], jax.Array]  # what the network sees [B, S, S, C] -> logits [B, K]


class Trained(NamedTuple):
    """What `explain` needs of one run, or several."""

    runs: tuple[Path, ...]
    name: str
    classes: tuple[str, ...]
    image: tuple[int, int, int]  # [H, W, C] as read
    source: Any  # the data it was trained on, by its settings
    synthetic: bool  # whether that was
    resizes: bool  # whether `seen` brings images of any size to one
    seen: Callable[[jax.Array], jax.Array]  # images as read -> as the network sees them [B, S, S, C]
    apply: Apply  # one model's logits of that, to be explained
    answer: Callable[[Sequence[Model], jax.Array], jax.Array]  # all models' prediction of that as logits, compiled
    models: list[Model]


def trained(runs: Sequence[Path]) -> Trained:
    """The models of runs, each at its best where that was kept.

    Raises UserError where one is no classifier, or not of the first one's task, classes and images.
    """
    found = [restore.restore_kept(run) for run in runs]
    for run, this in zip(runs, found):
        agree(run, this, runs[0], found[0])
    first = found[0]
    steps = classifier(first, runs[0])

    def apply(model: Model, x: jax.Array) -> jax.Array:
        return steps.scores(model.params, model.carry, x)

    def answer(model: Model, x: jax.Array) -> jax.Array:
        return steps.answer(model.params, model.carry, x)

    return Trained(
        tuple(runs),
        first.config.name,
        first.described.classes,
        first.described.image,
        innermost(first.config.data),
        runfolder.read_json(runs[0] / "run.json")["synthetic"],
        getattr(getattr(first.config.task, "preprocess", None), "size", None) is not None,
        jax.jit(steps.seen),
        apply,
        jax.jit(partial(scores, answer)),
        [own(this) for this in found],
    )


def agree(run: Path, this: Restored, other: Path, first: Restored) -> None:
    """Raises UserError unless the two can be one ensemble."""
    classifier(this, run)
    for name, mine, its in (
        ("task", this.config.task, first.config.task),
        ("classes", this.described.classes, first.described.classes),
        ("images", this.described.image, first.described.image),
    ):
        if mine != its:
            raise UserError(f"{run}: its {name} are not those of {other}: an ensemble needs runs of one task")


def innermost(source: Any) -> Any:
    """The source that others wrap: pooled, drawn, shifted."""
    while getattr(source, "source", None) is not None:
        source = source.source
    return source


def scores(apply: Apply, models: Sequence[Model], x: jax.Array) -> jax.Array:
    """Logits [B, K]; of several models those of their mean prediction."""
    each = [apply(model, x) for model in models]
    if len(each) == 1:
        return each[0]
    return temperature.logits(ensemble.mean(jnp.stack([jax.nn.softmax(one) for one in each])))
