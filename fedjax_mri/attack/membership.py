"""Membership inference: scores by which patients that were trained on are told from others, and how well they do it.

All figures are NumPy float64. An attack gives a score for each patient, higher for those that it takes for members. M
models were trained on known halves of P patients: `inside` bool [M, P].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special, stats

LEVEL = 0.95  # of intervals
FALSE_POSITIVES = (0.001, 0.01)  # rates at which attacks are compared (Carlini et al. 2022, section 3)
OWN_DEVIATION = 32  # models on each side of a patient from which on it has standard deviations of its own
LEAST_DEVIATION = 1e-6  # so that models that agree on a patient do not divide by 0


class Detection(NamedTuple):
    """How many members an attack finds while it takes few others for members."""

    asked: float  # the rate of false positives that is allowed
    false_positives: float  # the rate that is reached: at most that, and 0 where there are too few others
    rate: float  # share of the members that are found
    low: float  # Clopper and Pearson's interval of that share
    high: float


class Success(NamedTuple):
    """The figures of one attack."""

    auc: float
    detections: tuple[Detection, ...]  # for each of FALSE_POSITIVES
    members: int
    others: int


def logit_confidence(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns log(p / (1 - p)) [..., n] of the true class's probability p, from logits [..., n, C] and labels [n].

    It is nearly normal over models, which p is not (Carlini et al. 2022, arXiv 2112.03570, section 4.3).
    """
    logits = np.asarray(logits, np.float64)
    true = np.arange(logits.shape[-1]) == label[:, None]
    of_true = np.where(true, logits, 0).sum(-1)
    return of_true - special.logsumexp(np.where(true, -np.inf, logits), -1)


def by_patient(values: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Returns the means [..., P] of values [..., n] over the images of each patient; patient int [n], from 0 to P-1."""
    images = np.bincount(patient)
    sums = [np.bincount(patient, row, len(images)) for row in values.reshape(-1, len(patient))]
    return np.reshape(sums, (*values.shape[:-1], len(images))) / images


def loss_threshold(target: np.ndarray) -> np.ndarray:
    """Returns minus the loss [P] of patients with logit confidences `target` [P] (Yeom et al. 2018, arXiv 1709.01604).

    It needs no shadow models.
    """
    return -np.logaddexp(0, -target)


def lira(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns the log likelihood ratio [P] of membership (LiRA online: Carlini et al. 2022, algorithm 1).

    Logit confidences `target` [P] of the attacked model are compared with those of `shadows` [M, P], by a Gaussian of
    the models with a patient, and one of those without.
    """
    densities = [stats.norm.logpdf(target, *gaussians(shadows, which)) for which in (inside, ~inside)]
    return densities[0] - densities[1]


def lira_offline(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns how far [P] a patient's confidence lies above the models without it, in standard deviations.

    This is LiRA offline (section 4.4), whose probability is the normal distribution function of it.
    """
    mean, deviation = gaussians(shadows, ~inside)
    return (target - mean) / deviation


def gaussians(shadows: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation [P] of confidences [M, P] over the models that are `chosen` [M, P].

    Where few models are, all patients share one deviation (Carlini et al. 2022, section 6.3).
    """
    count = chosen.sum(0)
    mean = np.where(chosen, shadows, 0).sum(0) / count
    squares = np.where(chosen, (shadows - mean) ** 2, 0).sum(0)
    if count.min() >= OWN_DEVIATION:
        variance = squares / (count - 1)
    else:
        variance = np.full_like(mean, squares.sum() / max((count - 1).sum(), 1))
    return mean, np.maximum(np.sqrt(variance), LEAST_DEVIATION)


def rmia(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """Returns the share [P] of other patients z over which x is `gamma` times more likely to be a member.

    RMIA online (Zarifzadeh et al. 2024, arXiv 2312.03262, equations 2 to 4): the ratio of a probability under the
    attacked model to its mean over models, half of them trained with the patient, for x over that for z.
    """
    del inside  # the means over both halves
    log_ratio = special.log_expit(target) - special.logsumexp(special.log_expit(shadows), 0) + np.log(len(shadows))
    order = np.sort(log_ratio)
    return np.searchsorted(order, log_ratio - np.log(gamma), side="right") / len(order)


def success(scores: np.ndarray, member: np.ndarray) -> Success:
    """Returns the figures of scores [n] for n patients of whom `member` bool [n] are."""
    inner, outer = scores[member], scores[~member]
    return Success(auc(inner, outer), tuple(detection(inner, outer, one) for one in FALSE_POSITIVES),
                   len(inner), len(outer))  # fmt: skip


def auc(inner: np.ndarray, outer: np.ndarray) -> float:
    """Returns the area under the ROC curve: how often a member scores above another; equal scores count half."""
    ranks = stats.rankdata(np.concatenate([inner, outer]))[: len(inner)]
    return float((ranks.sum() - len(inner) * (len(inner) + 1) / 2) / (len(inner) * len(outer)))


def detection(inner: np.ndarray, outer: np.ndarray, asked: float) -> Detection:
    """Returns how many of the scores `inner` lie above the threshold that at most a share `asked` of `outer` passes."""
    allowed = int(asked * len(outer) + 1e-9)
    threshold = np.sort(outer)[::-1][allowed]
    found = int((inner > threshold).sum())
    return Detection(
        asked, float((outer > threshold).mean()), found / len(inner), *clopper_pearson(found, len(inner), LEVEL)
    )


def clopper_pearson(successes: int, trials: int, level: float) -> tuple[float, float]:
    """Returns Clopper and Pearson's interval of a share, `successes` of `trials`, at a confidence `level`."""
    interval = stats.binomtest(successes, trials).proportion_ci(level, "exact")
    return float(interval.low), float(interval.high)


def curve(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ROC curve of scores [n]: rates of false and of true positives, from 0 to 1, both [thresholds + 1]."""
    values, place = np.unique(-scores, return_inverse=True)
    counts = [np.bincount(place[which], minlength=len(values)).cumsum() for which in (~member, member)]
    return tuple(np.concatenate([[0], count / count[-1]]) for count in counts)  # type: ignore[return-value]


Attack = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
ATTACKS: dict[str, Attack] = {  # (confidences of the attacked [P], of shadows [M, P], inside [M, P]) -> scores [P]
    "loss threshold": lambda target, shadows, inside: loss_threshold(target),
    "LiRA, offline": lira_offline,
    "LiRA": lira,
    "RMIA": rmia,
}
