"""Temperature, sets, referral, outliers and ensembles keep what their papers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from fedjax_mri.metrics import conformal, ensemble, outliers, referral, temperature

RNG = np.random.default_rng(0)
N, C = 2000, 4
TRUE = RNG.normal(size=(N, C)) * 2
CHANCES = special.softmax(TRUE, axis=1)
LABELS = np.array([RNG.choice(C, p=p) for p in CHANCES])
LOGITS = (3 * TRUE).astype(np.float32)  # three times too sure


def nll(t: float) -> float:
    return float(-special.log_softmax(LOGITS.astype(float) / t, axis=1)[np.arange(N), LABELS].mean())


def test_temperature_lowers_the_likelihood_to_its_least_and_keeps_predictions() -> None:
    t = float(jax.jit(temperature.fit)(LOGITS, LABELS))
    best = optimize.minimize_scalar(nll, (0.5, 2, 10)).x
    assert t == pytest.approx(best, rel=1e-3) and t == pytest.approx(3, rel=0.1)
    assert nll(t) < nll(1)
    cooled = np.asarray(temperature.apply(jnp.asarray(LOGITS), t))
    np.testing.assert_array_equal(cooled.argmax(1), LOGITS.argmax(1))
    again = temperature.logits(jax.nn.softmax(jnp.asarray(LOGITS)))
    assert float(temperature.fit(again, LABELS)) == pytest.approx(t, rel=1e-3)
    sure = temperature.fit(jnp.eye(4, dtype=jnp.float32), np.arange(4))
    assert float(sure) == pytest.approx(temperature.COLDEST, rel=1e-3)


@pytest.mark.parametrize("kind", ["LAC", "APS", "APS, exact"])
def test_sets_hold_the_truth_as_often_as_asked(kind) -> None:
    p, alpha, n = jnp.asarray(special.softmax(LOGITS, axis=1)), 0.1, 500
    uniform = jnp.asarray(RNG.random(N).astype(np.float32))
    scores = {
        "LAC": lambda: conformal.least_ambiguous(p),
        "APS": lambda: conformal.adaptive(p),
        "APS, exact": lambda: conformal.adaptive(p, uniform),
    }[kind]()
    scores, shares = np.asarray(scores), []
    for _ in range(100):
        order = RNG.permutation(N)
        known, rest = order[:n], order[n:]
        truth = np.sort(scores[known, LABELS[known]])
        limit = truth[int(np.ceil((n + 1) * (1 - alpha))) - 1]
        shares.append((scores[rest, LABELS[rest]] <= limit).mean())
    mean, error = np.mean(shares), np.std(shares) / 10
    assert mean > 1 - alpha - 3 * error
    if kind != "APS":  # where nothing is taken off, ties of sure predictions cover more
        assert mean < 1 - alpha + 1 / (n + 1) + 3 * error
    found = conformal.quantile(jnp.asarray(scores[known]), jnp.asarray(LABELS[known]), alpha)
    assert float(found) == pytest.approx(float(limit))
    held = conformal.covered(conformal.sets(jnp.asarray(scores[rest]), found), jnp.asarray(LABELS[rest]))
    assert float(held.mean()) == pytest.approx(shares[-1])


def test_scores_by_hand_and_too_few_examples() -> None:
    p = jnp.asarray([[0.1, 0.6, 0.3]], jnp.float32)
    np.testing.assert_allclose(conformal.adaptive(p), [[1.0, 0.6, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(conformal.adaptive(p, jnp.ones(1)), [[0.9, 0.0, 0.6]], atol=1e-6)
    assert conformal.quantile(p, jnp.asarray([1]), 0.1) == jnp.inf
    assert conformal.sets(conformal.least_ambiguous(p), jnp.inf).all()
    rates = conformal.by_site(jnp.asarray([True, False, True]), jnp.asarray([0, 0, 2]), 3)
    np.testing.assert_array_equal(rates, [0.5, np.nan, 1])


def test_referral() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.6, 0.5], np.float32)
    correct = np.array([True, True, False, True, False])
    referred, accuracy = referral.curve(jnp.asarray(confidence), jnp.asarray(correct))
    np.testing.assert_allclose(referred, [0, 0.2, 0.4, 0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(accuracy, [3 / 5, 3 / 4, 2 / 3, 1, 1], rtol=1e-6)
    thresholds = [referral.threshold(confidence, correct, wanted) for wanted in (0.6, 0.7, 0.9, 1.01)]
    assert thresholds == pytest.approx([0.5, 0.6, 0.9, np.inf])
    assert float(referral.area(jnp.asarray(confidence), jnp.asarray(correct))) == pytest.approx(1 - 4.016667 / 5)


def test_outliers() -> None:
    x = RNG.normal(size=(200, 3)).astype(np.float32) @ RNG.normal(size=(3, 3)).astype(np.float32)
    labels = RNG.integers(0, 2, 200)
    x[labels == 1] += 5
    known = outliers.gaussians(jnp.asarray(x), jnp.asarray(labels), 2, ridge=0.0)
    means = np.stack([x[labels == c].mean(0) for c in range(2)])
    inverse = np.linalg.inv(np.cov((x - means[labels]).T, bias=True))
    apart = x[:5, None] - means
    expected = np.einsum("ncd,de,nce->nc", apart, inverse, apart).min(1)
    np.testing.assert_allclose(outliers.mahalanobis(known, jnp.asarray(x[:5])), expected, rtol=1e-3)
    logits = jnp.asarray([[1.0, 2.0], [-1.0, 0.0]])
    np.testing.assert_allclose(outliers.energy(logits), -special.logsumexp(logits, axis=1), rtol=1e-6)
    p = outliers.p_value(jnp.asarray([0.0, 2.5, 9.0]), jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(p, [1, 0.5, 0.25])


def test_an_ensemble_errs_less_and_says_what_it_disagrees_on() -> None:
    members = special.softmax(TRUE[None] + RNG.normal(size=(5, N, C)), axis=2).astype(np.float32)
    truth = np.eye(C)[LABELS]
    loss = lambda p: -np.log((p * truth).sum(-1)).mean(-1)  # noqa: E731
    assert loss(np.asarray(ensemble.mean(members))) < loss(members).mean()  # Jensen
    total, hard, apart = ensemble.uncertainty(jnp.asarray(members))
    np.testing.assert_allclose(total, special.entr(members.mean(0)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(total, hard + apart, rtol=1e-5)
    assert (np.asarray(apart) > -1e-5).all()
