"""Scores and figures of membership inference against loops in float64, and against laws that are known."""

import math

import numpy as np
import pytest
from scipy import stats

from fedjax_mri.attack import membership
from fedjax_mri.attack.command import against_each
from fedjax_mri.attack.membership import ATTACKS, detection
from fedjax_mri.attack.shadow import halves


def drawn(models: int, patients: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Confidences of a target [P] and of shadows [M, P]; who is inside [M, P]; who is a member [P].

    A patient's own mean is N(0, 3); training on it adds 1; a model is off by N(0, 1).
    """
    rng = np.random.default_rng(seed)
    inside, member = halves(models, patients, rng), rng.random(patients) < 0.5
    hard = rng.normal(0, 3, patients)
    shadows = hard + inside + rng.normal(0, 1, (models, patients))
    return hard + member + rng.normal(0, 1, patients), shadows, inside, member


def test_logit_confidence_is_the_log_odds_of_the_true_class() -> None:
    rng = np.random.default_rng(0)
    logits, label = rng.normal(0, 2, (3, 5, 4)), rng.integers(0, 4, 5)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    true = p[:, np.arange(5), label]
    np.testing.assert_allclose(membership.logit_confidence(logits, label), np.log(true / (1 - true)), rtol=1e-12)
    sure = membership.logit_confidence(np.array([[900.0, 0.0], [0.0, 900.0]]), np.array([0, 0]))
    np.testing.assert_array_equal(sure, [900.0, -900.0])


def test_figures_of_a_patient_are_means_over_its_images() -> None:
    values = np.array([[1.0, 2.0, 3.0, 7.0], [0.0, 4.0, 0.0, 1.0]])
    found = membership.by_patient(values, np.array([1, 0, 1, 1]))
    np.testing.assert_allclose(found, [[2.0, 11 / 3], [4.0, 1 / 3]])


@pytest.mark.parametrize("models", [8, 64])
def test_lira_is_the_ratio_of_two_densities(models) -> None:
    target, shadows, inside, _ = drawn(models, 20)
    own = models == 64  # deviations of a patient's own

    def density(side: np.ndarray, patient: int) -> float:
        values = [shadows[side[:, one], one] for one in range(20)]
        each = [((v - v.mean()) ** 2).sum() for v in values]
        variance = each[patient] / (len(values[patient]) - 1) if own else sum(each) / sum(len(v) - 1 for v in values)
        away = (target[patient] - values[patient].mean()) ** 2 / variance
        return -0.5 * away - 0.5 * math.log(2 * math.pi * variance)

    wanted = [density(inside, patient) - density(~inside, patient) for patient in range(20)]
    np.testing.assert_allclose(membership.lira(target, shadows, inside), wanted, rtol=1e-10)
    without = [shadows[~inside[:, i], i].mean() for i in range(20)]
    order = membership.lira_offline(target, shadows, inside)
    assert (np.sign(order) == np.sign(target - without)).all()


def test_rmia_counts_the_patients_over_which_a_patient_is_more_likely() -> None:
    target, shadows, inside, _ = drawn(8, 30)
    p, of_shadows = 1 / (1 + np.exp(-target)), 1 / (1 + np.exp(-shadows))
    ratio = [p[i] / (0.5 * of_shadows[inside[:, i], i].mean() + 0.5 * of_shadows[~inside[:, i], i].mean())
             for i in range(30)]  # fmt: skip
    wanted = [np.mean([x / z >= 2.0 for z in ratio]) for x in ratio]
    np.testing.assert_allclose(membership.rmia(target, shadows, inside), wanted)


def test_attacks_reach_what_the_law_of_the_confidences_allows() -> None:
    """Where a member's confidence is N(1, 1) above the others' N(0, 1), by the likelihood ratio test."""
    target, shadows, inside, member = drawn(400, 10_000)
    found = {name: membership.success(attack(target, shadows, inside), member) for name, attack in ATTACKS.items()}
    best = stats.norm.sf(stats.norm.ppf(0.99) - 1)
    assert best == pytest.approx(0.0924, abs=1e-4)
    assert found["LiRA"].detections[1].rate == pytest.approx(best, rel=0.15)
    assert found["LiRA"].auc == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=0.015)
    assert 0.015 < found["RMIA"].detections[1].rate < best * 1.1 and found["loss threshold"].detections[1].rate < 0.025


def test_area_and_detections_are_those_of_counting() -> None:
    rng = np.random.default_rng(1)
    inner, outer = rng.integers(0, 9, 40).astype(float), rng.integers(-2, 7, 250).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in inner for b in outer]
    assert membership.auc(inner, outer) == pytest.approx(np.mean(pairs))
    for asked in (0.001, 0.01, 0.1):
        one = detection(inner, outer, asked)
        passing = [t for t in np.unique(outer) if (outer > t).mean() <= asked]
        assert one.rate == (inner > min(passing)).mean() and one.false_positives <= asked
    found = round(one.rate * 40)
    beta = stats.beta.ppf(0.025, found, 41 - found), stats.beta.ppf(0.975, found + 1, 40 - found)
    np.testing.assert_allclose((one.low, one.high), beta, rtol=1e-6)
    scores, member = np.concatenate([inner, outer]), np.arange(290) < 40
    false, true = membership.curve(scores, member)
    assert np.trapezoid(true, false) == pytest.approx(membership.auc(inner, outer))


def test_an_interval_holds_the_rate_of_false_positives_where_membership_is_shuffled() -> None:
    target, shadows, inside, member = drawn(16, 4000)
    scores, rng = membership.lira(target, shadows, inside), np.random.default_rng(2)
    several = [membership.success(scores, rng.permutation(member)).detections[1] for _ in range(200)]
    assert np.mean([one.low <= 0.01 <= one.high for one in several]) > 0.8
    assert np.mean([one.rate for one in several]) == pytest.approx(0.01, abs=0.001)
    assert membership.success(scores, member).detections[1].low > 0.04


def test_each_patient_trains_half_of_the_models_and_one_of_each_pair() -> None:
    inside = halves(6, 50, np.random.default_rng(0))
    assert (inside.sum(0) == 3).all() and (inside[::2] != inside[1::2]).all()
    assert len(np.unique(inside, axis=1).T) == 8 and 100 < inside.sum() < 200


def test_each_model_is_attacked_by_as_many_with_a_patient_as_without() -> None:
    """So that members that nothing tells have no lower scores than others, few as the models are."""
    rng, areas = np.random.default_rng(3), []
    for _ in range(40):
        inside = halves(6, 200, rng)
        areas.append(against_each(rng.normal(0, 1, (6, 200)), inside)["LiRA"].success.auc)
    assert np.mean(areas) == pytest.approx(0.5, abs=4 * np.std(areas) / 40**0.5) and np.std(areas) < 0.03
