"""Classification of images and volumes (systems A, B, E): preprocessing, augmentation, a network, cross entropy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.core import checks, paths, trees
from fedjax_mri.core.building import build
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.data.augment import Augment, Preprocess, prepared_shape, preprocess, training_images
from fedjax_mri.data.check import Holds, Reads
from fedjax_mri.data.contract import DataDescription
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

DROPS, MIXES = 2**31 - 1, 2**31 - 2  # numbers of a step's keys that augmentation, which has one an image, leaves free
TINY = 1e-30  # a probability whose logarithm is still finite


@dataclass(frozen=True)
class Classify:
    """Settings of the classification task."""

    network: Any = field(default_factory=CNNSettings)  # or ResNetSettings, VGGSettings, ..., VolumeCNNSettings
    statistics: Literal["average", "local"] = "average"  # BatchNorm's: averaged by the server, or kept (FedBN)
    # adds weight_decay * |w|^2 to the loss, with the gradient 2 * weight_decay * w; `local.decay` is decoupled from the
    # loss, as in AdamW
    weight_decay: float = 0.0
    decayed: tuple[str, ...] = ()  # patterns (see paths.py) of the parameters that it is for; (): all
    frozen: tuple[str, ...] = ()  # patterns of the parameters that do not move; BatchNorm's statistics still do
    label_smoothing: float = 0.0  # share of a label that is spread over all classes (Szegedy et al. 2016)
    class_weights: tuple[float, ...] | Literal["balanced"] = ()  # of the loss; balanced: see `balanced_weights`
    mixup: float = 0.0  # of another image of the batch, and of its label, up to this share is mixed in
    mirror: bool = False  # predict by the mean logits of an image and its mirror image
    preprocess: Preprocess = field(default_factory=Preprocess)
    augment: Augment = field(default_factory=Augment)

    def build(self, described: DataDescription, compute: Compute) -> Task:
        """Returns the task for images or volumes with labels 0..classes-1. Raises UserError on impossible settings."""
        check(self, described)
        image = prepared_shape(self.preprocess, described.image)
        net = build(self.network, Net, image, len(described.classes), compute)
        check_logits(self.network, net, image, len(described.classes))
        check_patterns(self, net)
        return classify(self, net, described.labels)


def check_logits(settings: object, net: Net, image: tuple[int, ...], classes: int) -> None:
    """Raises UserError where a user's network gives something else than logits [B, classes] of images [B, ...]."""
    name = type(settings).__name__
    if type(settings).__module__.startswith("fedjax_mri."):
        return
    x, weight = jax.ShapeDtypeStruct((2, *image), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    model = jax.eval_shape(net.init, jax.random.key(0))
    scores = jax.eval_shape(lambda model, x, weight: net.apply(*model, x, weight, False)[0], model, x, weight)
    given = list(getattr(scores, "shape", ()))
    if given != [2, classes]:
        raise UserError(
            f"network {name}: gives {given} for 2 images; give logits of the {classes} classes, [2, {classes}]"
        )


def classify(settings: Classify, net: Net, labels: Sequence[int] = ()) -> Task:
    """Returns the classification task with `net`, whose apply takes (params, carry, x, weight, train[, key]).

    `labels` are the training examples of each class, which balanced weights of classes are made from.
    """

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        x = training_images(settings.preprocess, settings.augment, key, batch["image"])
        x, partner, fraction = mixup(settings.mixup, jax.random.fold_in(key, MIXES), x, batch["weight"])
        scores, carry = net.apply(params, carry, x, batch["weight"], True, jax.random.fold_in(key, DROPS))
        wanted = targets(settings, labels, batch["label"], scores.shape[-1])
        wanted = wanted + fraction[:, None] * (wanted[partner] - wanted)
        cost = mean(optax.softmax_cross_entropy(scores, wanted), batch["weight"])
        return cost, (carry, classification.tally(scores, batch["label"], batch["weight"]))

    def trainable(params: Params) -> PyTree:
        return jax.tree.map(lambda still: not still, matching(params, settings.frozen))

    def predict_logits(params: Params, carry: Carry, x: jax.Array) -> jax.Array:
        views = (x, jnp.flip(x, -2)) if settings.mirror else (x,)
        total = sum((logits(net, params, carry, view) for view in views), start=jnp.float32(0))
        return total / len(views)

    def scores(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return predict_logits(params, carry, preprocess(settings.preprocess, batch["image"]))

    resizes = settings.preprocess.size is not None
    steps = Classifier(partial(preprocess, settings.preprocess), partial(logits, net), predict_logits, resizes)
    phase = Phase(
        loss, trainable, penalty(settings), mixes_examples=not is_concrete(settings.mixup) or settings.mixup > 0
    )
    task = classifier(net, phase, scores, settings.statistics)
    reads: Reads = {"image": greys(settings.preprocess), "label": "class"}
    return task._replace(classifier=steps, network=settings.network, reads=reads)


def greys(settings: Preprocess) -> Holds:
    """Returns what an image must hold: any numbers where the preprocessing brings them into one range."""
    return "grey" if settings.normalise == "none" else "any"


def logits(net: Net, params: Params, carry: Carry, x: jax.Array) -> jax.Array:
    """Returns the logits [B, K] of the network in use, for its input x [B, ..., C]."""
    return net.apply(params, carry, x, jnp.ones(len(x), jnp.float32), False)[0]


def penalty(settings: Classify) -> Callable[[Params], jax.Array] | None:
    """Returns a function from params to what is added to the loss; None where `weight_decay` is 0.

    It is `weight_decay` times the squared L2 norm of the parameters in `decayed`; its gradient is 2 `weight_decay` w.
    """
    if is_concrete(settings.weight_decay) and not settings.weight_decay:
        return None

    def l2(params: Params) -> jax.Array:
        some = settings.decayed
        chosen = trees.split(matching(params, some), params)[0] if some else params
        return settings.weight_decay * optax.tree.norm(chosen, squared=True)

    return l2


def classifier(
    net: Net, phase: Phase, scores: Callable[[Params, Carry, Batch], jax.Array], statistics: Literal["average", "local"]
) -> Task:
    """Returns the classification task of `net`, trained by `phase`, whose logits [B, K] of a batch are `scores`."""

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return classification.tally(scores(params, carry, batch), batch["label"], batch["weight"])

    def predict(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return jax.nn.softmax(scores(params, carry, batch))

    def tally(probabilities: jax.Array, batch: Batch) -> Metrics:
        return classification.tally(jnp.log(jnp.maximum(probabilities, TINY)), batch["label"], batch["weight"])

    def shared(model: Model) -> Model:
        travels = statistics == "average"
        return Model(everything(model.params), jax.tree.map(lambda _: travels, model.carry))

    def init(key: jax.Array) -> Model:
        return Model(*net.init(key))

    figures = classification.summary, classification.accuracy
    return Task(init, (phase,), evaluate, predict, shared, *figures, tally=tally)


def mixup(most: float, key: jax.Array, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns images x [B, ...] mixed with others of their batch, and what is mixed in.

    The latter is the place of the other image, int32 [B], and the fraction of it, float32 [B].

    Mixup (Zhang et al. 2018) with fractions uniform in 0..most. Padding, of weight [B] 0, gives and takes nothing.
    """
    here = jnp.arange(len(x), dtype=jnp.int32)
    if len(x) == 1 or (is_concrete(most) and not most):
        return x, here, jnp.zeros(len(x))
    by, how_much = jax.random.split(key)
    partner = (here + jax.random.randint(by, (), 1, len(x))) % len(x)
    drawn = most * jax.random.uniform(how_much, (len(x),))
    fraction = jnp.where((weight > 0) & (weight[partner] > 0), drawn, jnp.zeros_like(drawn))
    return x + fraction.reshape(-1, *[1] * (x.ndim - 1)) * (x[partner] - x), partner, fraction


def targets(settings: Classify, labels: Sequence[int], truth: jax.Array, classes: int) -> jax.Array:
    """Returns the loss's target of each class, [B, classes]: truth int32 [B] smoothed, times the weights of classes."""
    wanted = optax.smooth_labels(jax.nn.one_hot(truth, classes), settings.label_smoothing)
    if not settings.class_weights:
        return wanted
    weights = balanced_weights(labels) if settings.class_weights == "balanced" else settings.class_weights
    return wanted * jnp.asarray(weights, jnp.float32)[None]


def balanced_weights(labels: Sequence[int]) -> jax.Array:
    """Returns the weights n / (classes n_c) [C] of classes, from how often each label occurs.

    A label that never occurs counts as one that occurs once. Weights are shared by all clients, so that one of skewed
    labels counts for no more than its rare classes do.
    """
    counts = jnp.asarray(labels, jnp.float32)
    return counts.sum() / (len(labels) * jnp.maximum(counts, 1))


def matching(params: Params, patterns: Sequence[str]) -> PyTree:
    """Returns whether any of the patterns names a parameter, bool at each leaf."""
    return paths.matching(Model(params, ()), patterns).params


def check(settings: Classify, described: DataDescription) -> None:
    """Raises UserError, naming the field, where the loss cannot be made of the settings."""
    checks.not_negative("task.weight_decay", settings.weight_decay)
    checks.fraction("task.label_smoothing", settings.label_smoothing)
    checks.fraction("task.mixup", settings.mixup)
    weights, classes = settings.class_weights, len(described.classes)
    if weights == "balanced":
        if not described.labels:
            raise UserError("task.class_weights=balanced: how often labels occur is not known; give a weight a class")
    elif weights and (len(weights) != classes or not all(0 < weight < math.inf for weight in weights)):
        raise UserError(f"task.class_weights={weights}: give a positive weight for each of {classes} classes")


def check_patterns(settings: Classify, net: Net) -> None:
    """Raises UserError where a pattern names no parameter, or all are frozen."""
    if not settings.frozen and not settings.decayed:
        return
    params = jax.eval_shape(net.init, jax.random.key(0))[0]
    paths.check(Model(params, ()), settings.frozen, "task.frozen")
    paths.check(Model(params, ()), settings.decayed, "task.decayed")
    if all(jax.tree.leaves(matching(params, settings.frozen))):
        raise UserError(f"task.frozen={settings.frozen}: leaves nothing to train; give patterns of some layers")
