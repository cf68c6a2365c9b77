"""How much privacy a run spends, by the privacy loss distributions (PLD) of Google's dp-accounting.

The neighbouring relation is that one unit (a client or a patient) is added or removed. Figures are upper bounds: the
distributions are rounded in the direction that overstates the loss.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_mri.core.errors import UserError, install

LARGEST_NOISE = 1e6  # noise multiplier up to which a budget is looked for
FEW = 1000  # releases up to which a coarser grid of losses is as exact, and ten times as fast


class Release(NamedTuple):
    """A sum over some of the units, released with Gaussian noise."""

    noise: float  # noise multiplier: standard deviation of the noise over the bound of a unit's part
    rate: float = 1.0  # probability with which each unit takes part
    units: int = 0  # in all, if rate < 1
    places: int = 0  # the most units that take part, if rate < 1; of more, a random part does


def gaussian(noise: float, times: int) -> Release:
    """Returns one release that spends as much as `times` releases in which a unit takes part: their noise adds up."""
    return Release(noise / math.sqrt(max(times, 1)))


def epsilon(release: Release, times: int, delta: float) -> float:
    """Returns the smallest epsilon for which `times` releases are (epsilon, delta) differentially private."""
    if not times:
        return 0.0
    if release.rate == 1:
        release, times = gaussian(release.noise, times), 1
    return _epsilon(release, times, delta)


@functools.lru_cache(maxsize=4096)
def _epsilon(release: Release, times: int, delta: float) -> float:
    one = loss_distribution(release, 1e-3 if times <= FEW else 1e-4)
    return float(one.self_compose(times).get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=64)
def loss_distribution(release: Release, interval: float) -> Any:
    """Returns the distribution of the privacy loss of one release, on a grid of `interval`.

    A sample that is cut to `places` costs a little more than a whole one (Ganesh et al. 2025, arXiv 2508.15089).
    """
    pld = library()
    if release.rate == 1:
        return pld.from_gaussian_mechanism(release.noise, value_discretization_interval=interval)
    return pld.from_truncated_subsampled_gaussian_mechanism(
        release.units, release.rate, release.places, release.noise, value_discretization_interval=interval
    )


def library() -> Any:
    """Returns the module of loss distributions. Raises UserError where dp-accounting is not installed."""
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError as error:
        raise UserError(f"privacy: {error}; {install('privacy')}") from None
    return privacy_loss_distribution


def noise_for(budget: float, spent: Callable[[float], float]) -> float:
    """Returns the smallest noise multiplier, to 1e-4 of it, with which `spent` of it is at most `budget`.

    Raises UserError if even LARGEST_NOISE spends more.
    """
    from scipy.optimize import brentq

    def excess(log_noise: float) -> float:
        return math.log(max(spent(math.exp(log_noise)), 1e-9) / budget)

    high = 0.0
    while excess(high) > 0:
        high += math.log(4)
        if high > math.log(LARGEST_NOISE):
            raise UserError(f"privacy.epsilon={budget}: no noise is enough; raise it or privacy.delta")
    low = high - math.log(4)
    while excess(low) < 0 and low > -math.log(LARGEST_NOISE):
        low, high = low - math.log(4), low
    found = brentq(excess, low, high, xtol=1e-4)
    while excess(found) > 0:
        found += 1e-4
    return math.exp(found)
