"""Robust rules as their papers write them: loops in NumPy, float64, on the rows [n, P] that came."""

import itertools

import numpy as np
from scipy.special import logit


def gaps(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def median(x):
    return np.median(x, 0)


def trimmed_mean(x, f):
    return np.sort(x, 0)[f : len(x) - f].mean(0)


def meamed(x, f):
    return around_median(x, len(x) - f)


def around_median(x, count):
    columns = []
    for column in x.T:
        order = np.argsort(np.abs(column - np.median(column)), kind="stable")
        columns.append(column[order[:count]].mean())
    return np.array(columns)


def krum_scores(x, f):
    scores = []
    for i in range(len(x)):
        others = sorted(float(np.sum((x[i] - x[j]) ** 2)) for j in range(len(x)) if j != i)
        scores.append(sum(others[: max(len(x) - f - 2, 1)]))
    return np.array(scores)


def krum(x, f):
    return x[krum_scores(x, f).argmin()]


def multi_krum(x, f, best=0):
    return x[np.argsort(krum_scores(x, f), kind="stable")[: best or len(x) - f]].mean(0)


def bulyan(x, f):
    left, picked = list(range(len(x))), []
    while len(picked) < len(x) - 2 * f:
        picked.append(left.pop(int(krum_scores(x[left], f).argmin())))
    return around_median(x[picked], len(x) - 4 * f)


def geometric_median(x, smooth=0.1, steps=3):
    z = np.zeros(x.shape[1])
    for _ in range(steps):
        closeness = 1 / np.maximum(np.linalg.norm(x - z, axis=1), smooth)
        z = closeness @ x / closeness.sum()
    return z


def centred_clipping(x, v, radius, steps=1):
    for _ in range(steps):
        far = np.linalg.norm(x - v, axis=1)
        v = v + np.mean([(row - v) * min(1, radius / d if d else 1) for row, d in zip(x, far)], 0)
    return v


def best_subset(x, f, figure):
    kept = itertools.combinations(range(len(x)), len(x) - f)
    return x[list(min(kept, key=lambda one: figure(x[list(one)])))].mean(0)


def mda(x, f):
    return best_subset(x, f, lambda rows: gaps(rows).max())


def smea(x, f):
    return best_subset(x, f, lambda rows: np.linalg.norm(rows - rows.mean(0), 2))


def monna(x, f, trusted):
    return x[np.argsort(gaps(x)[trusted], kind="stable")[: len(x) - f]].mean(0)


def caf(x, f):
    weights, least, best = np.ones(len(x)), np.inf, x.mean(0)
    while weights.sum() > len(x) - 2 * f:
        centre = weights @ x / weights.sum()
        values, directions = np.linalg.eigh((x - centre).T @ ((x - centre) * weights[:, None]) / weights.sum())
        if values[-1] < least:
            least, best = values[-1], centre
        along = np.where(weights > 0, ((x - centre) @ directions[:, -1]) ** 2, 0)
        weights = weights * (1 - along / along.max())
    return best


def norm_bound(x, bound):
    return clipping(x, bound).mean(0)


def foolsgold(x, history, confidence=1.0):
    """`history` includes this round's updates."""
    unit = history / np.maximum(np.linalg.norm(history, axis=1, keepdims=True), 1e-30)
    similar = unit @ unit.T
    np.fill_diagonal(similar, 0)
    most, pardoned = similar.max(1), similar.copy()
    for i, j in itertools.product(range(len(x)), repeat=2):
        if most[i] < most[j]:
            pardoned[i, j] *= most[i] / most[j]
    rates = np.clip(1 - pardoned.max(1), 0, 1)
    rates = np.clip(rates / rates.max(), 1e-6, 0.99)
    return np.clip(confidence * (logit(rates) + 0.5), 0, 1) @ x / len(x)


def clipping(x, bound):
    return np.array([row * min(1, bound / max(np.linalg.norm(row), 1e-30)) for row in x])


def arc(x, f):
    lengths = np.sort(np.linalg.norm(x, axis=1))
    return clipping(x, lengths[len(x) - 2 * f * (len(x) - f) // len(x) - 1])


def nnm(x, f):
    return np.array([x[np.argsort(one, kind="stable")[: len(x) - f]].mean(0) for one in gaps(x)])
