"""The spread over clients against values worked out by hand."""

import math
import warnings

import numpy as np
import pytest

from fedjax_mri.metrics.fairness import spread


def test_by_hand():
    values = np.arange(1, 21) / 20
    figures = spread(np.random.default_rng(0).permutation(values), np.ones(20))
    assert figures["worst decile"] == pytest.approx((0.05 + 0.10) / 2)
    # Sums in two orders: equal but for their rounding, which the processor decides.
    assert (figures["mean"], figures["pooled"]) == (pytest.approx(0.525, rel=1e-12), pytest.approx(0.525, rel=1e-12))
    assert figures["std"] == pytest.approx(math.sqrt(np.mean((values - 0.525) ** 2)))
    assert (figures["worst"], figures["best"]) == (0.05, 1.0) and figures["gap"] == pytest.approx(0.95)
    assert figures["jain"] == pytest.approx(values.sum() ** 2 / (20 * (values**2).sum()))


def test_weights_only_pool():
    figures = spread([0.5, 1.0], [30, 10])
    assert figures["mean"] == 0.75 and figures["pooled"] == pytest.approx(0.625)
    assert figures["worst decile"] == 0.5


def test_empty_clients_are_counted():
    figures = spread([0.5, np.nan, 0.5, 0.9], [1, 0, 1, 0])
    assert (figures["clients"], figures["empty"]) == (2, 2)
    assert figures["jain"] == 1 and figures["gap"] == 0


def test_no_clients_at_all():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = spread([np.nan], [0])
    assert figures["clients"] == 0 and math.isnan(figures["mean"])
