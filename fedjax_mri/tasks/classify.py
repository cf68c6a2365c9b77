"""Classification of slices (system B): preprocess, augment, convolve, cross entropy."""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fedjax_mri.data.augment import Augment, Preprocess, preprocess, training_images
from fedjax_mri.errors import UserError
from fedjax_mri.metrics import classification
from fedjax_mri.nets.cnn import CNN
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import ConvPolicy, NormKind
from fedjax_mri.tasks.task import Batch, Carry, Metrics, Model, Params, Phase, Task, everything


@dataclass(frozen=True)
class Classify:
    """Settings of the classification task."""

    widths: tuple[int, ...] = (16, 32, 64, 96)  # channels of each stage; each halves the image
    hidden: int = 0  # units of a dense layer before the logits; 0: none
    norm: NormKind = "group"
    statistics: Literal["average", "local"] = "average"  # BatchNorm's: averaged by the server, or kept (FedBN)
    weight_decay: float = 0.0  # L2 on the parameters, added to the loss
    preprocess: Preprocess = field(default_factory=Preprocess)
    augment: Augment = field(default_factory=Augment)

    def build(self, image: tuple[int, int, int], classes: int, policy: ConvPolicy) -> Task:
        """The task for images [H, W, C] and labels 0..classes-1. Raises UserError on impossible settings."""
        size, channels = self.preprocess.size or image[0], image[2]
        _check(self, size, image)

        def build(rngs: nnx.Rngs) -> CNN:
            kind, stages = self.norm, self.widths
            return CNN(size, channels, classes, widths=stages, hidden=self.hidden, norm=kind, policy=policy, rngs=rngs)

        return classify(self, functional(build))


def classify(settings: Classify, net: Net) -> Task:
    """The task of telling classes apart with `net`, whose apply takes (params, carry, x, weight, train)."""

    def logits(params: Params, carry: Carry, batch: Batch, x: jax.Array, train: bool) -> tuple[jax.Array, Carry]:
        return net.apply(params, carry, x, batch["weight"], train)

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        x = training_images(settings.preprocess, settings.augment, key, batch["image"])
        scores, carry = logits(params, carry, batch, x, True)
        cost = mean(optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"]), batch["weight"])
        cost += settings.weight_decay * optax.tree.norm(params, squared=True) if settings.weight_decay else 0.0
        return cost, (carry, classification.tally(scores, batch["label"], batch["weight"]))

    def scores(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return logits(params, carry, batch, preprocess(settings.preprocess, batch["image"]), False)[0]

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return classification.tally(scores(params, carry, batch), batch["label"], batch["weight"])

    def predict(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return jax.nn.softmax(scores(params, carry, batch))

    def shared(model: Model) -> Any:
        travels = settings.statistics == "average"
        return Model(everything(model.params), jax.tree.map(lambda _: travels, model.carry))

    def init(key: jax.Array) -> Model:
        return Model(*net.init(key))

    phases = (Phase(loss, everything),)
    return Task(init, phases, evaluate, predict, shared, classification.summary, classification.accuracy)


def mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted mean of values [B]; 0 where all weights [B] are."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1e-9)


def _check(settings: Classify, size: int, image: tuple[int, int, int]) -> None:
    if not settings.widths or min(settings.widths) < 1 or settings.hidden < 0:
        raise UserError(
            f"task.widths={settings.widths}, task.hidden={settings.hidden}: give stages of 1 channel or more, "
            "and a hidden layer of 0 units or more"
        )
    if settings.preprocess.size is None and image[0] != image[1]:
        raise UserError(f"images of {image[0]} x {image[1]} px are not square: set task.preprocess.size")
    stages = len(settings.widths)
    if size < 2**stages:
        raise UserError(
            f"task.widths={settings.widths}: {stages} stages want {2**stages} px or more, images have {size}"
        )
    uneven = [width for width in settings.widths if width > 8 and width % 8]
    if settings.norm == "group" and uneven:
        raise UserError(f"task.widths={settings.widths}: GroupNorm wants multiples of 8 (or task.norm=batch)")
