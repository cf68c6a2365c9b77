"""A task as a small tuple of pure functions; see `classify.py` for one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
Params = PyTree
Carry = PyTree  # what changes without a gradient: running statistics, an image pool
Batch = dict[str, jax.Array]  # field -> [B, ...], among them "weight" [B], 0 for padding
Metrics = PyTree  # sums with their weights: adding two merges them
Loss = tuple[jax.Array, tuple[Carry, Metrics]]  # what a phase minimises, and what it leaves


class Model(NamedTuple):
    """All that a client holds of a network."""

    params: Params
    carry: Carry


class Phase(NamedTuple):
    """One player of a local step: it moves the parameters in `moves` down the gradient of `loss`.

    Almost every task has one. A CycleGAN has one too: its scalar is the sum over players, each of whose terms sees
    the others through `stop_gradient`. Where one player must see the other's *new* parameters, there are two.
    """

    loss: Callable[[Params, Carry, Batch, jax.Array], Loss]  # last: key
    moves: Callable[[Params], PyTree]  # params -> bool at each leaf


def labelled(prediction: PyTree, batch: Batch) -> dict[str, jax.Array]:
    """Of a classifier, a test example's probabilities [B, C] and label [B] are kept."""
    return {"predictions": prediction, "truth": batch["label"]}


class Classifier(NamedTuple):
    """A classifier in two steps, for those who ask what its network made of what it saw."""

    seen: Callable[[jax.Array], jax.Array]  # images [B, H, W, C] as read -> as the network sees them, float32
    scores: Callable[[Params, Carry, jax.Array], jax.Array]  # of that, its network's logits [B, K], to be explained
    answer: Callable[[Params, Carry, jax.Array], jax.Array]  # of that, logits [B, K] as the task predicts by them


class Task(NamedTuple):
    """What is learnt."""

    init: Callable[[jax.Array], Model]  # key -> model
    phases: tuple[Phase, ...]
    evaluate: Callable[[Params, Carry, Batch], Metrics]
    predict: Callable[[Params, Carry, Batch], PyTree]  # per example [B, ...], as a user of the model wants it
    shared: Callable[[Model], PyTree]  # model -> bool at each leaf: what travels; the rest stays with the client
    summary: Callable[[Metrics], dict[str, float]]  # merged sums -> named figures
    score: Callable[[Metrics], jax.Array]  # the headline figure, higher is better; sums may have leading axes [...]
    # what a site that took no part uses, given a model whose private part is the mean of clients'; None: that
    newcomer: Callable[[Model], Model] | None = None
    tally: Callable[[PyTree, Batch], Metrics] | None = None  # of predictions, for ensembles; None: there are none
    # (prediction, batch) -> fields [B, ...]: what a run keeps of each test example
    kept: Callable[[PyTree, Batch], dict[str, jax.Array]] = labelled
    # fields [B, ...] of what the report shows of a few examples; None: image, truth and prediction
    shown: Callable[[Params, Carry, Batch], dict[str, jax.Array]] | None = None
    headline: tuple[str, ...] = ("accuracy", "f1")  # of the summary, what a user looks at first
    classifier: Classifier | None = None  # None: there is no one image and no scores of classes
    # `predict` by a key for what noise the network has, dropout or a sampled code; None: it has none
    draw: Callable[[Params, Carry, Batch, jax.Array], PyTree] | None = None


def everything(tree: PyTree) -> PyTree:
    """The mask that is true at each leaf."""
    return jax.tree.map(lambda _: True, tree)


def mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted mean of values [B]; 0 where all weights [B] are."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1e-9)
