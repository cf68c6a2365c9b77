"""Classification of slices (systems A, B, E): preprocess, augment, convolve, cross entropy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.core import paths, trees
from fedjax_mri.core.errors import UserError, known
from fedjax_mri.data.augment import Augment, Preprocess, preprocess, training_images
from fedjax_mri.metrics import classification
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
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
    PyTree,
    Task,
    everything,
    mean,
)

DROPS, MIXES = 2**31 - 1, 2**31 - 2  # places among a step's keys, which augmentation numbers by image
TINY = 1e-30  # a probability whose logarithm is still finite


@dataclass(frozen=True)
class Classify:
    """Settings of the classification task."""

    network: Any = field(default_factory=CNNSettings)  # or ResNetSettings, VGGSettings, EfficientNetSettings
    statistics: Literal["average", "local"] = "average"  # BatchNorm's: averaged by the server, or kept (FedBN)
    weight_decay: float = 0.0  # L2 on the parameters, added to the loss
    decayed: tuple[str, ...] = ()  # patterns (see paths.py) of the parameters that it is for; (): all
    frozen: tuple[str, ...] = ()  # patterns of the parameters that do not move; BatchNorm's statistics still do
    label_smoothing: float = 0.0  # share of a label that is spread over all classes (Szegedy et al. 2016)
    class_weights: tuple[float, ...] | Literal["balanced"] = ()  # of classes in the loss; balanced: as `balance` does
    mixup: float = 0.0  # of another image of the batch, and of its label, up to this share is mixed in
    mirror: bool = False  # judge by the mean logits of an image and its mirror image
    preprocess: Preprocess = field(default_factory=Preprocess)
    augment: Augment = field(default_factory=Augment)

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Task:
        """The task for images [H, W, C] and labels 0..classes-1. Raises UserError on impossible settings."""
        check(self, classes)
        size = self.preprocess.size
        seen = image if size is None else (size, size, image[2])
        net = self.network.build(seen, classes, compute)
        check_patterns(self, net)
        return classify(self, net)


def classify(settings: Classify, net: Net) -> Task:
    """The task of telling classes apart with `net`, whose apply takes (params, carry, x, weight, train[, key])."""

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        x = training_images(settings.preprocess, settings.augment, key, batch["image"])
        x, partner, share = mixed(settings.mixup, jax.random.fold_in(key, MIXES), x, batch["weight"])
        scores, carry = net.apply(params, carry, x, batch["weight"], True, jax.random.fold_in(key, DROPS))
        wanted = targets(settings, batch["label"], scores.shape[-1])
        wanted = wanted + share[:, None] * (wanted[partner] - wanted)
        cost = mean(optax.softmax_cross_entropy(scores, wanted), batch["weight"])
        if not known(settings.weight_decay) or settings.weight_decay:
            cost += settings.weight_decay * optax.tree.norm(decaying(params), squared=True)
        return cost, (carry, classification.tally(scores, batch["label"], batch["weight"]))

    def decaying(params: Params) -> Params:
        return trees.split(chosen(params, settings.decayed), params)[0] if settings.decayed else params

    def moves(params: Params) -> PyTree:
        return jax.tree.map(lambda still: not still, chosen(params, settings.frozen))

    seen = partial(preprocess, settings.preprocess)

    def logits(params: Params, carry: Carry, x: jax.Array) -> jax.Array:
        return net.apply(params, carry, x, jnp.ones(len(x), jnp.float32), False)[0]

    def answer(params: Params, carry: Carry, x: jax.Array) -> jax.Array:
        views = (x, x[:, :, ::-1]) if settings.mirror else (x,)
        return sum((logits(params, carry, view) for view in views), start=jnp.float32(0)) / len(views)

    def scores(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return answer(params, carry, seen(batch["image"]))

    steps = Classifier(seen, logits, answer)
    return classifier(net, loss, scores, settings.statistics, moves)._replace(classifier=steps)


def classifier(net: Net, loss: Any, scores: Any, statistics: str, moves: Any = everything) -> Task:
    """The task of telling classes apart by `net`, learnt by a phase of that `loss` and those `moves`, and its scores.

    `scores` is (params, carry, batch) -> logits [B, classes].
    """

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return classification.tally(scores(params, carry, batch), batch["label"], batch["weight"])

    def predict(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return jax.nn.softmax(scores(params, carry, batch))

    def tally(probabilities: jax.Array, batch: Batch) -> Metrics:
        return classification.tally(jnp.log(jnp.maximum(probabilities, TINY)), batch["label"], batch["weight"])

    def shared(model: Model) -> Any:
        travels = statistics == "average"
        return Model(everything(model.params), jax.tree.map(lambda _: travels, model.carry))

    def init(key: jax.Array) -> Model:
        return Model(*net.init(key))

    phases = (Phase(loss, moves),)
    figures = classification.summary, classification.accuracy
    return Task(init, phases, evaluate, predict, shared, *figures, tally=tally)


def mixed(most: float, key: jax.Array, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images x [B, ...] with a share of another of their batch, which one int32 [B], and how much of it float32 [B].

    Mixup (Zhang et al. 2018) with shares uniform in 0..most; nothing is taken from, or given to, padding.
    """
    here = jnp.arange(len(x), dtype=jnp.int32)
    if len(x) == 1 or (known(most) and not most):
        return x, here, jnp.zeros(len(x))
    by, how_much = jax.random.split(key)
    partner = (here + jax.random.randint(by, (), 1, len(x))) % len(x)
    drawn = most * jax.random.uniform(how_much, (len(x),))
    share = jnp.where((weight > 0) & (weight[partner] > 0), drawn, jnp.zeros_like(drawn))
    return x + share.reshape(-1, *[1] * (x.ndim - 1)) * (x[partner] - x), partner, share


def targets(settings: Classify, labels: jax.Array, classes: int) -> jax.Array:
    """What the loss asks of each class, [B, classes]: labels int32 [B] smoothed, times the weights of classes."""
    wanted = optax.smooth_labels(jax.nn.one_hot(labels, classes), settings.label_smoothing)
    return wanted * jnp.asarray(settings.class_weights, jnp.float32)[None] if settings.class_weights else wanted


def balance(settings: Classify, labels: Sequence[int]) -> Classify:
    """The settings with weights n / (classes n_c) in place of "balanced", from how often each label occurs.

    Weights are shared by all clients, so that one of skewed labels counts for no more than its rare classes do.
    """
    if settings.class_weights != "balanced":
        return settings
    return replace(settings, class_weights=tuple(sum(labels) / (len(labels) * max(n, 1)) for n in labels))


def chosen(params: Params, patterns: Sequence[str]) -> PyTree:
    """Whether any of the patterns names a parameter, bool at each leaf."""
    return paths.matching(Model(params, ()), patterns).params


def check(settings: Classify, classes: int) -> None:
    """Raises UserError, naming the field, where the loss cannot be made of the settings."""
    for name in ("label_smoothing", "mixup"):
        value = getattr(settings, name)
        if known(value) and not 0 <= value < 1:
            raise UserError(f"task.{name}={value}: give 0 or more, and less than 1")
    weights = settings.class_weights
    if weights == "balanced":
        raise UserError("task.class_weights=balanced: how often labels occur is not known here; give a weight a class")
    if weights and (len(weights) != classes or not all(0 < weight < math.inf for weight in weights)):
        raise UserError(f"task.class_weights={weights}: give a positive weight for each of {classes} classes")


def check_patterns(settings: Classify, net: Net) -> None:
    """Raises UserError where a pattern names no parameter, or all are frozen."""
    if not settings.frozen and not settings.decayed:
        return
    params = jax.eval_shape(net.init, jax.random.key(0))[0]
    paths.check(Model(params, ()), settings.frozen, "task.frozen")
    paths.check(Model(params, ()), settings.decayed, "task.decayed")
    if all(jax.tree.leaves(chosen(params, settings.frozen))):
        raise UserError(f"task.frozen={settings.frozen}: leaves nothing to train; give patterns of some layers")
