"""Classification metrics as sums with their weights, so that adding two is merging them.

Over batches, clients or devices: `tally(a + b) == tally(a) + tally(b)`, field by field. Every figure below is a
function of those sums and takes any leading dimensions (`[...]`, say one tally per client). Where there is nothing to
divide by a figure is nan, never infinite. Classes follow scikit-learn's rule: one that occurs in truth or prediction
counts (as 0 where its own denominator is empty), one that occurs in neither is nan and left out of the macro average.
Each figure is one program: its operations by themselves would take longer to compile.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.metrics.ratio import ratio

BINS = 15  # equal-width confidence bins, closed above (Guo et al. 2017)


class Tally(NamedTuple):
    """Weighted sums over examples."""

    confusion: jax.Array  # [..., C, C] weight, by truth (row) and prediction (column)
    nll: jax.Array  # [...] weight x negative log likelihood, nats
    weight: jax.Array  # [...] weight
    bins: jax.Array  # [..., 15, 3] weight, weight x confidence, weight x correct, by confidence


def tally(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Tally:
    """Returns the sums over one batch.

    logits float [B, C], labels int32 [B], weight float32 [B] (0 for padding, whatever its logits). A logit that is not
    a number shows as nan in `nll` and `bins`; `confusion` stays finite.
    """
    classes = logits.shape[-1]
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    prediction = jnp.argmax(logits, -1)
    truth = jax.nn.one_hot(labels, classes) * weight[:, None]
    nll = -jnp.take_along_axis(log_probability, labels[:, None], -1)[:, 0]
    return Tally(
        confusion=truth.T @ jax.nn.one_hot(prediction, classes),
        nll=_weighted(nll, weight).sum(),
        weight=weight.sum(),
        bins=_bins(jnp.exp(log_probability.max(-1)), prediction == labels, weight),
    )


def _weighted(values: jax.Array, weight: jax.Array) -> jax.Array:
    # Not a plain product: padding must not leak nan x 0.
    return jnp.where(weight > 0, values * weight, 0.0)


def _bins(confidence: jax.Array, correct: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns sums [15, 3] by confidence, from confidence, correct and weight [B]."""
    bin = jnp.clip(jnp.ceil(confidence * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
    columns = (weight, _weighted(confidence, weight), weight * correct.astype(jnp.float32))
    return jax.nn.one_hot(bin, BINS).T @ jnp.stack(columns, -1)


@jax.jit
def pool(t: Tally) -> Tally:
    """Returns one tally from several, summed over the leading axis (of clients, say)."""
    return Tally(*(jnp.asarray(field).sum(0) for field in t))


@jax.jit
def accuracy(t: Tally) -> jax.Array:
    """Returns the share of weight predicted right, [...]."""
    return ratio(_hits(t).sum(-1), t.weight)


@jax.jit
def precision(t: Tally) -> jax.Array:
    """Returns the share of each class's predictions that are right, [..., C]."""
    return _per_class(t, _hits(t), _predicted(t))


@jax.jit
def recall(t: Tally) -> jax.Array:
    """Returns the share of each class's examples that are found (sensitivity), [..., C]."""
    return _per_class(t, _hits(t), _actual(t))


@jax.jit
def f1(t: Tally) -> jax.Array:
    """Returns the harmonic mean of precision and recall, [..., C]."""
    return _per_class(t, 2.0 * _hits(t), _predicted(t) + _actual(t))


@jax.jit
def specificity(t: Tally) -> jax.Array:
    """Returns the share of the other classes' examples not taken for this class, [..., C].

    It is nan where there are no others.
    """
    others = jnp.asarray(t.weight)[..., None] - _actual(t)
    return ratio(others - (_predicted(t) - _hits(t)), jnp.where(_present(t), others, 0.0))


@jax.jit
def macro(values: jax.Array) -> jax.Array:
    """Returns the mean over the classes that count, [...] from [..., C]."""
    return jnp.nanmean(values, -1)


@jax.jit
def nll(t: Tally) -> jax.Array:
    """Returns the mean negative log likelihood in nats, [...]."""
    return ratio(t.nll, t.weight)


@jax.jit
def calibration(t: Tally) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the share of examples, mean confidence and accuracy of each confidence bin, each [..., 15].

    Together they are the reliability diagram.
    """
    weight, confidence, correct = jnp.moveaxis(jnp.asarray(t.bins), -1, 0)
    return ratio(weight, weight.sum(-1, keepdims=True)), ratio(confidence, weight), ratio(correct, weight)


@jax.jit
def ece(t: Tally) -> jax.Array:
    """Returns the expected calibration error over 15 bins, [...].

    Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    weight, confidence, correct = jnp.moveaxis(jnp.asarray(t.bins), -1, 0)
    return ratio(jnp.abs(confidence - correct).sum(-1), weight.sum(-1))


@jax.jit
def interval(t: Tally, z: float = 1.959964) -> tuple[jax.Array, jax.Array]:
    """Returns the score interval of the accuracy, low and high [...], 95 % by default.

    It holds for independent examples (Wilson 1927).
    """
    n, p = jnp.asarray(t.weight), accuracy(t)
    centre = ratio(p * n + z**2 / 2, n + z**2)
    half = ratio(z * jnp.sqrt(p * (1 - p) * n + z**2 / 4), n + z**2)
    return jnp.maximum(centre - half, 0.0), jnp.minimum(centre + half, 1.0)


def summary(t: Tally) -> dict[str, float]:
    """Returns the headline figures of one tally without leading dimensions."""
    return {name: float(value) for name, value in jax.device_get(_headline(t)).items()}


@jax.jit
def _headline(t: Tally) -> dict[str, jax.Array]:
    """Returns each headline figure; jit sorts them by name."""
    return {
        "accuracy": accuracy(t),
        "precision": macro(precision(t)),
        "recall": macro(recall(t)),
        "f1": macro(f1(t)),
        "nll": nll(t),
        "ece": ece(t),
    }


def _hits(t: Tally) -> jax.Array:
    return jnp.diagonal(jnp.asarray(t.confusion), axis1=-2, axis2=-1)


def _actual(t: Tally) -> jax.Array:
    return jnp.asarray(t.confusion).sum(-1)


def _predicted(t: Tally) -> jax.Array:
    return jnp.asarray(t.confusion).sum(-2)


def _present(t: Tally) -> jax.Array:
    return _actual(t) + _predicted(t) > 0


def _per_class(t: Tally, numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns the ratio; 0 for a class that occurs but has no denominator, nan for one that does not occur."""
    share = jnp.where(denominator > 0, ratio(numerator, denominator), 0.0)
    return jnp.where(_present(t), share, jnp.nan)


def roc_auc(scores: np.ndarray, positives: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Returns the area under the ROC curve: how often a positive outranks a negative, ties counting half.

    It is computed on the host and exact.

    scores float [n], positives bool [n], weight [n]. nan without both kinds, or where a score is not a number. The
    Mann-Whitney statistic (Hanley and McNeil 1982).
    """
    scores, positives = np.asarray(scores), np.asarray(positives, bool)
    weight = np.ones(scores.shape) if weight is None else np.asarray(weight, np.float64)
    if np.isnan(scores).any() or not weight[positives].any() or not weight[~positives].any():
        return float("nan")
    values, rank = np.unique(scores, return_inverse=True)
    up, down = (np.bincount(rank, weight * kind, len(values)) for kind in (positives, ~positives))
    outranked = np.cumsum(down) - down / 2
    return float(up @ outranked / (up.sum() * down.sum()))


def class_auc(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the `roc_auc` of each class against the rest, float64 [C] from [n, C] and int [n].

    It is nan for a class that is absent or alone.
    """
    return np.array([roc_auc(column, labels == c) for c, column in enumerate(np.transpose(probabilities))])


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of `class_auc` over the classes that occur; nan if only one does."""
    values = class_auc(probabilities, np.asarray(labels))
    return float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan")
