"""A task as a small tuple of pure functions; see `classify.py` for one."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.check import Reads
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.nets.conv.compute import Compute

PyTree = Any
Params = PyTree
Carry = PyTree  # what changes without a gradient: running statistics, an image pool
Batch = dict[str, jax.Array]  # field -> [B, ...]; "weight" [B] is 1 for an example and 0 for padding
Metrics = PyTree  # sums with their weights: adding two merges them
Loss = tuple[jax.Array, tuple[Carry, Metrics]]  # what a phase minimises; the carry and the metrics after it


class Model(NamedTuple):
    """All that a client holds of a network: its parameters, and what changes without a gradient."""

    params: Params
    carry: Carry


class Phase(NamedTuple):
    """One player of a local step: it moves the `trainable` parameters down the gradient of `loss`.

    Almost every task has one. A CycleGAN has one too: its scalar is the sum over players, each of whose terms sees
    the others through `stop_gradient`. Where one player must see the other's *new* parameters, there are two.
    """

    loss: Callable[[Params, Carry, Batch, jax.Array], Loss]  # last: key
    trainable: Callable[[Params], PyTree]  # params -> bool at each leaf
    # params -> float32 [], added to the loss: a regulariser that reads no example, such as the L2 norm of a head, and
    # so is no part of what is clipped for each patient; None: there is none
    penalty: Callable[[Params], jax.Array] | None = None
    mixes_examples: bool = False  # whether the loss of an example reads others of its batch, as with mixup


def labelled(prediction: PyTree, batch: Batch) -> dict[str, jax.Array]:
    """Returns the probabilities [B, C] and labels [B] of test examples, which a run of a classifier keeps."""
    return {"predictions": prediction, "truth": batch["label"]}


class Classifier(NamedTuple):
    """A classifier in two steps, preprocessing and network, for methods that explain the network."""

    preprocess: Callable[[jax.Array], jax.Array]  # images [B, ..., C] as read -> the network's input, float32
    logits: Callable[[Params, Carry, jax.Array], jax.Array]  # network's input -> its logits [B, K], to be explained
    # network's input -> logits [B, K] of the task's prediction
    predict_logits: Callable[[Params, Carry, jax.Array], jax.Array]
    resizes: bool = False  # whether `preprocess` brings images of any size to one size


class Translation(NamedTuple):
    """What a task that translates between CT and MR makes."""

    makes: tuple[str, ...]  # "ct", "mr" or both; `predict` gives a dict of them
    window: tuple[float, float] | None  # HU, see `intensities.Window`


Encoder = Callable[[jax.Array], Sequence[jax.Array]]  # images [B, H, W, C] in 0..1 -> feature maps [B, h, w, c]


class Task(NamedTuple):
    """A task as pure functions: how its model starts, learns, predicts, and is measured."""

    init: Callable[[jax.Array], Model]  # key -> model
    phases: tuple[Phase, ...]
    evaluate: Callable[[Params, Carry, Batch], Metrics]
    predict: Callable[[Params, Carry, Batch], PyTree]  # per example [B, ...], as a user of the model wants it
    shared: Callable[[Model], PyTree]  # model -> bool at each leaf: what travels; the rest stays with the client
    summary: Callable[[Metrics], dict[str, float]]  # merged sums -> named figures
    score: Callable[[Metrics], jax.Array]  # the headline figure, higher is better; sums may have leading axes [...]
    # (a model whose private part is the mean of clients') -> the model of a site that took no part; None: the same
    unseen_client_model: Callable[[Model], Model] | None = None
    tally: Callable[[PyTree, Batch], Metrics] | None = None  # metrics of predictions; None: it has no ensembles
    # (prediction, batch) -> fields [B, ...]: what a run keeps of each test example
    kept: Callable[[PyTree, Batch], dict[str, jax.Array]] = labelled
    # fields [B, ...] that the report shows of a few examples; None: image, truth and prediction
    shown: Callable[[Params, Carry, Batch], dict[str, jax.Array]] | None = None
    headline: tuple[str, ...] = ("accuracy", "f1")  # of the summary, what a user looks at first
    classifier: Classifier | None = None  # None: it does not classify single images
    translation: Translation | None = None  # None: it does not translate
    # `predict` by a key for what noise the network has, dropout or a sampled code; None: it has none
    draw: Callable[[Params, Carry, Batch, jax.Array], PyTree] | None = None
    reads: Reads = MappingProxyType({})  # fields of a batch that it needs, and what they must hold
    network: Any = None  # settings of the network that is all of the model, by which files of weights are read
    # (path of a trained classifier -> its feature maps) -> this task, ready; None: it needs no such encoder
    with_encoder: Callable[[Callable[[str], Encoder]], "Task"] | None = None


class TaskSettings(Protocol):
    """A frozen dataclass of settings that can build its task."""

    def build(self, described: DataDescription, compute: Compute) -> Task:
        """Returns the task on data of that description. Raises UserError on impossible settings."""
        ...


def check_shared(task: Task) -> None:
    """Raises UserError, naming it, if a part of the model travels that is no floating-point number.

    The mean of keys, counters or flags means nothing.
    """
    model = jax.eval_shape(task.init, jax.random.key(0))
    for name, leaf in trees.named(trees.split(task.shared(model), model)[0]).items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UserError(
                f"task: {name} is {leaf.dtype} and cannot be averaged over clients; let `shared` of the task be False "
                "there, or keep no such state in the model"
            )


def predicting_with(task: Task, part: Callable[[Model], Model]) -> Task:
    """Returns `task` evaluated, shown and explained with a part of the model that is trained."""

    def of_part(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, carry, *rest: function(*part(Model(params, carry)), *rest)

    steps = task.classifier
    return task._replace(
        evaluate=of_part(task.evaluate),
        predict=of_part(task.predict),
        shown=task.shown and of_part(task.shown),
        draw=task.draw and of_part(task.draw),
        classifier=steps and steps._replace(logits=of_part(steps.logits), predict_logits=of_part(steps.predict_logits)),
    )


def everything(tree: PyTree) -> PyTree:
    """Returns a mask that is True at each leaf of `tree`."""
    return jax.tree.map(lambda _: True, tree)


def mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the weighted mean of values [B]; 0 where all weights [B] are."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1e-9)
