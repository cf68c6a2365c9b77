"""Every figure against a float64 loop, and sums that merge."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.metrics import classification as m

C = 5

tally = jax.jit(m.tally)  # as in use: each operation would be compiled by itself


def batch(seed, n=200, classes=C):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)).astype(np.float32) * 2
    return logits, rng.integers(0, classes, n).astype(np.int32), rng.integers(0, 3, n).astype(np.float32)


def loops(logits, labels, weight):
    """Per-class precision, recall, F1, specificity and the rest, one example at a time."""
    confusion, nll, bins = np.zeros((C, C)), 0.0, np.zeros((15, 3))
    for row, label, w in zip(logits.astype(np.float64), labels, weight.astype(np.float64)):
        p = np.exp(row) / np.exp(row).sum()
        guess = int(p.argmax())
        confusion[label, guess] += w
        nll -= w * math.log(p[label])
        bins[min(14, math.ceil(p[guess] * 15) - 1)] += [w, w * p[guess], w * (guess == label)]
    return confusion, nll, bins


@pytest.mark.parametrize("seed", range(3))
def test_against_loops(seed):
    arrays = batch(seed)
    confusion, nll, bins = loops(*arrays)
    t = tally(*arrays)
    np.testing.assert_array_equal(t.confusion, confusion)
    np.testing.assert_allclose(t.bins, bins, rtol=1e-5)
    total, found = confusion.sum(), jax.jit(lambda t: [f(t) for f in (m.precision, m.recall, m.f1, m.specificity)])(t)
    for c in range(C):
        tp, fp, fn = confusion[c, c], confusion[:, c].sum() - confusion[c, c], confusion[c].sum() - confusion[c, c]
        expected = [tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn), 1 - fp / (total - tp - fn)]
        figures = [float(each[c]) for each in found]
        np.testing.assert_allclose(figures, expected, rtol=1e-5)
    assert m.accuracy(t) == pytest.approx(np.trace(confusion) / total, rel=1e-6)
    assert m.nll(t) == pytest.approx(nll / total, rel=1e-5)
    assert m.ece(t) == pytest.approx(sum(abs(c - r) for _, c, r in bins) / total, rel=1e-4)


def test_adding_is_merging():
    a, b = batch(0), batch(1)
    both = tally(*(np.concatenate(pair) for pair in zip(a, b)))
    added = jax.tree.map(jnp.add, tally(*a), tally(*b))
    stacked = jax.jit(m.pool)(jax.tree.map(lambda *x: jnp.stack(x), tally(*a), tally(*b)))
    for merged in (added, stacked):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), both, merged)


def test_per_client_equals_one_at_a_time():
    tallies = [tally(*batch(seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *tallies)
    for figure in (m.accuracy, m.precision, m.recall, m.f1, m.specificity, m.nll, m.ece, m.calibration, m.interval):
        figure = jax.jit(figure)
        for i, t in enumerate(tallies):
            jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-6), figure(stacked), figure(t))


def test_vmap_of_lanes():
    lanes = [batch(seed) for seed in range(2)]
    stacked = jax.jit(jax.vmap(m.tally))(*(np.stack(field) for field in zip(*lanes)))
    np.testing.assert_array_equal(stacked.confusion, np.stack([loops(*lane)[0] for lane in lanes]))


def test_absent_classes():
    # Truth 0, 0, 1; prediction 0, 2, 2: class 1 is never predicted, class 2 never true, class 3 neither.
    logits = 9 * np.eye(4, dtype=np.float32)[[0, 2, 2]]
    t = tally(logits, np.array([0, 0, 1], np.int32), np.ones(3, np.float32))
    np.testing.assert_array_equal(m.precision(t), [1, 0, 0, np.nan])
    np.testing.assert_array_equal(m.recall(t), [0.5, 0, 0, np.nan])
    assert m.macro(m.recall(t)) == pytest.approx(0.5 / 3)
    assert m.macro(m.f1(t)) == pytest.approx((2 / 3) / 3)


def test_nothing_is_nan_without_warning():
    logits, labels, weight = batch(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = m.summary(tally(logits, labels, 0 * weight))
    assert all(math.isnan(value) for value in figures.values())


def test_padding_never_counts():
    logits, labels, weight = batch(0)
    weight[:50] = 0
    spoilt = logits.copy()
    spoilt[:50] = np.nan
    for x, y in zip(tally(logits, labels, weight), tally(spoilt, labels, weight)):
        np.testing.assert_allclose(x, y, rtol=1e-5)


def test_nan_is_not_hidden():
    logits, labels, weight = batch(0)
    logits[3], weight[3] = np.nan, 1
    t = tally(logits, labels, weight)
    assert np.isnan(t.nll) and np.isnan(m.ece(t))
    assert np.isfinite(t.confusion).all() and t.confusion.sum() == weight.sum()


def test_ece_of_four():
    # Confidences .9 right, .8 wrong, .7 right, .6 right.
    p = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    t = tally(np.log(np.stack([p, 1 - p], 1)), np.array([0, 1, 0, 0], np.int32), np.ones(4, np.float32))
    assert m.ece(t) == pytest.approx(0.4, abs=1e-6)
    share, confidence, correct = m.calibration(t)
    assert share.sum() == pytest.approx(1) and np.nanmax(confidence) == pytest.approx(0.9, abs=1e-6)
    assert np.nansum(correct) == 3


def test_wilson_interval():
    # 8 of 10: centre (.8 + z2/20) / (1 + z2/10), by hand.
    logits = np.eye(2, dtype=np.float32)[[0] * 8 + [1] * 2]
    t = tally(logits, np.zeros(10, np.int32), np.ones(10, np.float32))
    np.testing.assert_allclose(m.interval(t), [0.490162, 0.943318], atol=2e-6)


def pairs(scores, positives, weight):
    wins = total = 0.0
    for s, p, w in zip(scores, positives, weight):
        for s2, p2, w2 in zip(scores, positives, weight):
            if p and not p2:
                total += w * w2
                wins += w * w2 * ((s > s2) + 0.5 * (s == s2))
    return wins / total


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, positives, weight = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.4, rng.random(60)
    assert m.roc_auc(scores, positives) == pytest.approx(pairs(scores, positives, np.ones(60)), abs=1e-12)
    assert m.roc_auc(scores, positives, weight) == pytest.approx(pairs(scores, positives, weight), abs=1e-12)
    assert m.roc_auc(-scores, positives) == pytest.approx(1 - m.roc_auc(scores, positives))


def test_auc_edges():
    assert m.roc_auc([0.1, 0.9], [False, True]) == 1
    assert math.isnan(m.roc_auc([0.1, 0.9], [True, True]))
    assert math.isnan(m.roc_auc([0.1, np.nan], [False, True]))


def test_macro_auc_skips_absent_classes():
    rng = np.random.default_rng(1)
    probabilities, labels = rng.dirichlet(np.ones(4), 50), rng.integers(0, 3, 50)
    expected = np.mean([pairs(probabilities[:, c], labels == c, np.ones(50)) for c in range(3)])
    assert m.macro_auc(probabilities, labels) == pytest.approx(expected)
    assert math.isnan(m.class_auc(probabilities, labels)[3])
    assert math.isnan(m.macro_auc(probabilities, np.zeros(50, int)))
