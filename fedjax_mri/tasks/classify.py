"""Classification of slices (system B): preprocess, augment, convolve, cross entropy."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.data.augment import Augment, Preprocess, preprocess, training_images
from fedjax_mri.errors import known
from fedjax_mri.metrics import classification
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.tasks.task import (
    Batch,
    Carry,
    Classifier,
    Loss,
    Metrics,
    Model,
    Params,
    Phase,
    Task,
    everything,
    mean,
)

DROPS = 2**31 - 1  # dropout's place among a step's keys, which augmentation numbers by image
TINY = 1e-30  # a probability whose logarithm is still finite


@dataclass(frozen=True)
class Classify:
    """Settings of the classification task."""

    network: Any = field(default_factory=CNNSettings)  # or ResNetSettings
    statistics: Literal["average", "local"] = "average"  # BatchNorm's: averaged by the server, or kept (FedBN)
    weight_decay: float = 0.0  # L2 on the parameters, added to the loss
    preprocess: Preprocess = field(default_factory=Preprocess)
    augment: Augment = field(default_factory=Augment)

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Task:
        """The task for images [H, W, C] and labels 0..classes-1. Raises UserError on impossible settings."""
        size = self.preprocess.size
        seen = image if size is None else (size, size, image[2])
        return classify(self, self.network.build(seen, classes, compute))


def classify(settings: Classify, net: Net) -> Task:
    """The task of telling classes apart with `net`, whose apply takes (params, carry, x, weight, train[, key])."""

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        x = training_images(settings.preprocess, settings.augment, key, batch["image"])
        scores, carry = net.apply(params, carry, x, batch["weight"], True, jax.random.fold_in(key, DROPS))
        cost = mean(optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"]), batch["weight"])
        if not known(settings.weight_decay) or settings.weight_decay:
            cost += settings.weight_decay * optax.tree.norm(params, squared=True)
        return cost, (carry, classification.tally(scores, batch["label"], batch["weight"]))

    def scores(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return net.apply(params, carry, preprocess(settings.preprocess, batch["image"]), batch["weight"], False)[0]

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return classification.tally(scores(params, carry, batch), batch["label"], batch["weight"])

    def predict(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return jax.nn.softmax(scores(params, carry, batch))

    def logits(params: Params, carry: Carry, x: jax.Array) -> jax.Array:
        return net.apply(params, carry, x, jnp.ones(len(x), jnp.float32), False)[0]

    def tally(probabilities: jax.Array, batch: Batch) -> Metrics:
        return classification.tally(jnp.log(jnp.maximum(probabilities, TINY)), batch["label"], batch["weight"])

    def shared(model: Model) -> Any:
        travels = settings.statistics == "average"
        return Model(everything(model.params), jax.tree.map(lambda _: travels, model.carry))

    def init(key: jax.Array) -> Model:
        return Model(*net.init(key))

    phases = (Phase(loss, everything),)
    figures = classification.summary, classification.accuracy
    steps = Classifier(partial(preprocess, settings.preprocess), logits)
    return Task(init, phases, evaluate, predict, shared, *figures, tally=tally, classifier=steps)
