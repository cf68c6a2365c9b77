"""Means, quartiles, intervals and tests of a few numbers, on the host."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

DRAWS = 2000  # resamples of a bootstrap, and flips of a test that has too many to try them all


def mean_of_known(values: np.ndarray) -> float:
    """Returns the mean of those values that are not nan; nan where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def quartiles(values: np.ndarray) -> np.ndarray:
    """Returns the quartiles [3, R] of each row of [R, s], over values that are not nan; nan where there are none."""
    rows = [row[~np.isnan(row)] for row in values]
    return np.array([np.percentile(row, (25, 50, 75)) if len(row) else [math.nan] * 3 for row in rows]).T


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the 95 % interval of the mean of values [n, ...] over their first axis.

    They are found by percentile bootstrap. nan for fewer than two values.
    """
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    from scipy import stats  # takes a second to import

    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, axis=0, n_resamples=DRAWS, method="percentile", rng=rng)
    return found.confidence_interval.low, found.confidence_interval.high


def sign_flip_p(differences: np.ndarray) -> float:
    """Returns the two-sided p of the mean of paired differences [n], had their signs been random.

    It is Fisher's randomisation test.

    Exact where all 2 ** n signs are DRAWS or fewer, otherwise over DRAWS random ones.
    """
    if len(differences) < 2:
        return math.nan
    if 2 ** len(differences) <= DRAWS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
    else:
        drawn = np.random.default_rng(0).choice((1.0, -1.0), (DRAWS - 1, len(differences)))
        signs = np.vstack([np.ones(len(differences)), drawn])
    means = np.abs(signs @ differences)
    return float(np.mean(means >= means[0] * (1 - 1e-9)))


def holm_corrected(p: Sequence[float]) -> list[float]:
    """Returns the p values corrected for the number of tests (Holm 1979); nan stays nan."""
    order, corrected, least = np.argsort(p), list(p), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = least if not math.isnan(p[place]) else math.nan
    return corrected
