"""Temperature, sets, referral, outliers and ensembles keep what their papers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from fedjax_mri.metrics import appearance, conformal, ensemble, outliers, referral, temperature

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
    known = outliers.gaussians(x, labels, 2, ridge=0.0)
    means = np.stack([x[labels == c].mean(0) for c in range(2)])
    inverse = np.linalg.inv(np.cov((x - means[labels]).T, bias=True))
    apart = x[:5, None] - means
    expected = np.einsum("ncd,de,nce->nc", apart, inverse, apart).min(1)
    np.testing.assert_allclose(outliers.mahalanobis(known, x[:5]), expected, rtol=1e-3)
    scaled = np.array([10, 1, 0.1], np.float32)  # units do not matter, even with a ridge
    one, other = (outliers.gaussians(x * by, labels, 3, ridge=1e-2) for by in (1, scaled))
    found = outliers.mahalanobis(one, x[:5]), outliers.mahalanobis(other, x[:5] * scaled)
    np.testing.assert_allclose(*found, rtol=1e-2)
    np.testing.assert_allclose(one.means[2], x.mean(0), rtol=1e-4)  # of a class that has no example
    logits = jnp.asarray([[1.0, 2.0], [-1.0, 0.0]])
    np.testing.assert_allclose(outliers.energy(logits), -special.logsumexp(logits, axis=1), rtol=1e-6)
    p = outliers.p_value(np.array([0.0, 2.5, 9.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(p, [1, 0.5, 0.25])


def combined_by_hand(score: np.ndarray, reference: np.ndarray) -> float:
    """The largest score in units of the 95 % quantiles, and its rank."""
    unit = np.quantile(reference, 0.95, axis=0)
    return float((1 + ((reference / unit).max(1) >= (score / unit).max()).sum()) / (1 + len(reference)))


def test_scores_taken_together_give_as_many_false_alarms_as_asked() -> None:
    """On exchangeable examples, though the scores depend on one another; what is extreme in one score is found."""
    shared = RNG.normal(size=(40, 139, 1))
    scores = np.exp(shared + 0.5 * RNG.normal(size=(40, 139, 3))).astype(np.float32)
    p = np.stack([outliers.combined_p_value(one[:40], one[40:]) for one in scores])
    expected = [combined_by_hand(score, scores[0, 40:]) for score in scores[0, :40]]
    np.testing.assert_allclose(p[0], expected, rtol=1e-6)
    for level in (0.05, 0.2):
        alarms = (p <= level).mean(1)
        assert abs(alarms.mean() - level) < 0.01 + 3 * alarms.std() / np.sqrt(len(alarms))
    far = np.stack([*scores[0, 40:].min(0)[:2], np.float32(99)])[None]
    assert float(outliers.combined_p_value(far, scores[0, 40:])[0]) <= 0.05


def test_appearance_is_that_of_simple_shapes() -> None:
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    disc = 0.5 * (x**2 + (y / 0.5) ** 2 < 0.64) * ~(x**2 + y**2 < 0.01)  # with a hole, which belongs to it
    disc[100:110, 20:40] = 1.0
    images = jnp.asarray(np.stack([disc, np.full_like(disc, 0.7), 0 * disc])[..., None], jnp.float32)
    area, proportions, fullness, border = np.asarray(appearance.outline(images)).T
    assert area[0] == pytest.approx(np.pi * 0.8 * 0.4 / 4, rel=0.02) and fullness[0] == pytest.approx(
        np.pi / 4, rel=0.02
    )
    assert proportions[0] == pytest.approx(-np.log(2), abs=0.02) and border.tolist() == [0, 0, 0]
    assert area[1:].tolist() == [0, 0] and np.asarray(appearance.is_flat(images)).tolist() == [False, True, True]
    values = disc[disc > 0]
    wanted = values.mean(), values.std(), (values > 0.9).mean(), (disc == 0).mean()
    np.testing.assert_allclose(appearance.grey_values(images)[0], wanted, rtol=1e-3)
    np.testing.assert_array_equal(appearance.grey_values(images)[1:], [[0, 0, 0, 0], [0, 0, 0, 1]])


def test_an_ensemble_errs_less_and_says_what_it_disagrees_on() -> None:
    members = special.softmax(TRUE[None] + RNG.normal(size=(5, N, C)), axis=2).astype(np.float32)
    truth = np.eye(C)[LABELS]
    loss = lambda p: -np.log((p * truth).sum(-1)).mean(-1)  # noqa: E731
    assert loss(np.asarray(ensemble.mean(members))) < loss(members).mean()  # Jensen
    total, hard, apart = ensemble.uncertainty(jnp.asarray(members))
    np.testing.assert_allclose(total, special.entr(members.mean(0)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(total, hard + apart, rtol=1e-5)
    assert (np.asarray(apart) > -1e-5).all()
