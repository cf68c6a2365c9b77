"""Lower bounds on epsilon from one run, by how well scores tell canaries that took part from those that did not.

Steinke et al. 2023 (arXiv 2305.08846), and the bound by Gaussian privacy curves of Mahloujifar et al. 2024 (arXiv
2410.22235). Each canary took part by the toss of a fair coin. Those with the highest scores are guessed to have done
so: all above a threshold, or a number of them that was fixed before. Each of several guesses is tested at its share of
the significance, so that the best may be taken.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LARGEST = 64.0  # epsilon up to which a bound is looked for


class Guesses(NamedTuple):
    """What the canaries above one threshold amount to."""

    canaries: int  # all of them, above and below
    made: int  # canaries above the threshold
    correct: int  # those of them that took part


Refutes = Callable[[Guesses, float, float, float], bool]  # (guesses, epsilon, delta, significance) -> whether refuted


def lower_bound(several: Sequence[Guesses], delta: float, significance: float, test: Refutes) -> float:
    """Returns the largest epsilon that `test` refutes by one of `several` guesses; 0 if it refutes none.

    It is a lower bound with confidence 1 - significance.
    """
    each, best = significance / len(several), 0.0
    for guesses in sorted(several, key=lambda one: -one.correct / max(one.made, 1)):
        if guesses.made and test(guesses, best, delta, each):
            best = largest_refuted(lambda epsilon, one=guesses: test(one, epsilon, delta, each), best)  # type: ignore[misc]
    return best


def largest_refuted(refuted: Callable[[float], bool], low: float) -> float:
    """Returns the largest epsilon that is `refuted`, which `low` is, to 1e-6."""
    high = max(1.0, 2 * low)
    while refuted(high) and high < LARGEST:
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def guesses_at_thresholds(inside: np.ndarray, outside: np.ndarray) -> list[Guesses]:
    """Returns the guesses at each vertex of the convex hull of the ROC curve, both ends included.

    inside, outside: scores [n], [m] of canaries that took part and that did not.
    """
    thresholds = np.append(np.union1d(inside, outside), np.inf)
    missed = np.searchsorted(np.sort(inside), thresholds)  # members below the threshold
    passed = np.searchsorted(np.sort(outside), thresholds)  # others below it
    hull: list[tuple[int, int]] = []
    for point in zip(missed.tolist(), passed.tolist()):
        while len(hull) > 1 and turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    total = len(inside) + len(outside)
    return [Guesses(total, total - m - p, len(inside) - m) for m, p in hull]


def guesses_of_shares(inside: np.ndarray, outside: np.ndarray, shares: Sequence[float]) -> list[Guesses]:
    """Returns the guesses that each of `shares` of all canaries, those with the highest scores, took part.

    Few guesses that are fixed before scores are seen leave each a larger share of the significance than a hull's do. Of
    canaries with equal scores, those that did not take part are guessed first, so that scores that say nothing show
    nothing.
    """
    took_part = np.repeat([False, True], [len(outside), len(inside)])
    correct = np.cumsum(took_part[np.argsort(-np.concatenate([outside, inside]), kind="stable")])
    made = [max(1, round(share * len(took_part))) for share in shares]
    return [Guesses(len(took_part), number, int(correct[number - 1])) for number in made]


def turns_down(first: tuple[int, int], second: tuple[int, int], third: tuple[int, int]) -> bool:
    """Returns whether `second` is not above the line from `first` to `third`; points are (members, others) missed."""
    (a, b), (c, d), (e, f) = first, second, third
    return (d - b) * (e - c) <= (f - d) * (c - a)


def one_run(guesses: Guesses, epsilon: float, delta: float, significance: float) -> bool:
    """Returns whether so many correct guesses refute (epsilon, delta) privacy (Steinke et al. 2023, theorem 5.2)."""
    from scipy.stats import binom

    made, correct = guesses.made, guesses.correct
    right = 1 / (1 + math.exp(-epsilon))
    chance = binom.sf(correct - 1, made, right)
    if chance > significance:
        return False
    fewer = np.arange(1, correct + 1)
    slack = np.max((binom.sf(correct - fewer - 1, made, right) - chance) / fewer, initial=0.0)
    return bool(chance + 2 * guesses.canaries * delta * slack < significance)


def one_run_gaussian(guesses: Guesses, epsilon: float, delta: float, significance: float) -> bool:
    """Returns whether the guesses refute the Gaussian mechanism that is (epsilon, delta) private.

    The recursion of Mahloujifar et al. 2024, algorithm 3, from the last guess to the first.
    """
    from scipy.special import ndtr, ndtri

    shift, made = gaussian_shift(epsilon, delta), guesses.made
    right = significance * guesses.correct / guesses.canaries
    wrong = significance * (made - guesses.correct) / guesses.canaries
    for left in range(guesses.correct - 1, -1, -1):
        now = max(wrong, float(ndtr(ndtri(right) - shift)))
        if now == wrong:
            break
        right, wrong = min(right + left / (made - left) * (now - wrong), 1.0), now
    return right + wrong > made / guesses.canaries


def gaussian_shift(epsilon: float, delta: float) -> float:
    """Returns the shift, in standard deviations, of the Gaussian mechanism that is just (epsilon, delta) private.

    Balle and Wang 2018 (arXiv 1805.06530), theorem 8.
    """
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    def excess(shift: float) -> float:
        first = ndtr(shift / 2 - epsilon / shift)
        return float(first - math.exp(epsilon + log_ndtr(-shift / 2 - epsilon / shift)) - delta)

    return float(brentq(excess, 1e-6, 100.0, xtol=1e-12))
