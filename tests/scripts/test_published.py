"""Published results: SCAFFOLD's quadratics against closed forms and NumPy, FedProx's cells, the tables."""

from dataclasses import replace

import jax
import numpy as np
import published_fedprox
import published_pfedme
import published_scaffold
import pytest
from published_fedprox import CLAIMS, DATA, SHARES, Line
from published_scaffold import CURVATURE, GAPS, SLOPE, START

from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.experiment import assemble, describe
from fedjax_mri.fed import engine, evaluate, segments
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.conditions import Partial

RATE = 0.1


def same_rate(gaps: np.ndarray = GAPS) -> tuple[np.ndarray, np.ndarray]:
    return np.full(len(gaps), RATE, np.float32), gaps


def test_one_local_step_is_gradient_descent() -> None:
    found = published_scaffold.runs(FedAvg(), 1, 20)(*same_rate())
    expected = (START * (1 - RATE) ** np.arange(1, 21)) ** 2 / 2
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=2e-3)  # in float32, with gradients up to 100


@pytest.mark.parametrize("steps", [2, 10])
def test_fedavg_ends_at_its_biased_fixed_point(steps) -> None:
    found = np.asarray(published_scaffold.runs(FedAvg(), steps, 200)(*same_rate()))[:, -1]
    ends = np.array([published_scaffold.drift(steps, RATE, float(gap)) for gap in GAPS])
    np.testing.assert_allclose(found, ends**2 / 2, rtol=1e-3)
    assert found.min() > 1e-3  # far from the optimum, and the farther the larger G


def plain_scaffold(steps: int, gap: float, primed: bool, rounds: int) -> np.ndarray:
    """Algorithm 1 with option II in float64."""
    slope, x = gap * SLOPE.astype(float), START
    c = CURVATURE * x + slope if primed else np.zeros(2)
    errors = []
    for _ in range(rounds):
        y = np.full(2, x)
        for _ in range(steps):
            y = y - RATE * (CURVATURE * y + slope - c + c.mean())
        c, x = c - c.mean() + (x - y) / (steps * RATE), y.mean()
        errors.append(x**2 / 2)
    return np.array(errors)


@pytest.mark.parametrize("primed", [False, True])
@pytest.mark.parametrize("steps", [2, 10])
def test_scaffold_is_the_paper_s_and_no_gap_slows_it_once_primed(steps, primed) -> None:
    found = np.asarray(published_scaffold.runs(Scaffold(), steps, 12, primed)(*same_rate()))
    for gap, one in zip(GAPS, found):
        plain = plain_scaffold(steps, float(gap), primed, 12)
        np.testing.assert_allclose(np.sqrt(2 * one), np.sqrt(2 * plain), rtol=1e-3, atol=2e-6 * gap)
    if primed:
        np.testing.assert_allclose(np.sqrt(found), np.sqrt(found[:1].repeat(3, 0)), atol=2e-4)
    else:
        assert found[2, 0] > 10 * found[0, 0]  # control variates of 0: the first round is FedAvg's


def test_scaffold_is_twice_as_fast_with_two_steps_and_five_times_with_ten() -> None:
    """Section 7.2, at one rate for all."""
    sgd, two, ten = (
        published_scaffold.until(np.asarray(run(*same_rate()))[0], 1e-6)
        for run in (
            published_scaffold.runs(FedAvg(), 1, 80),
            published_scaffold.runs(Scaffold(), 2, 80, True),
            published_scaffold.runs(Scaffold(), 10, 80, True),
        )
    )
    assert sgd / two == pytest.approx(2, abs=0.1)
    assert 4 < sgd / ten < 7


def test_no_rate_saves_fedavg_from_the_lower_bound() -> None:
    """Theorem II: at least a constant times G^2 / (mu R^2) is left, whatever the rate; SCAFFOLD leaves far less."""
    rates = np.geomspace(1e-3, 1, 60, dtype=np.float32)
    gaps = np.ones_like(rates)
    left = np.nanmin(np.asarray(published_scaffold.runs(FedAvg(), 2, 80)(rates, gaps)), 0)
    budget = np.array([10, 20, 40, 80])
    assert (left[budget - 1] * budget**2 > 0.5).all()
    assert (np.diff(np.log(left[budget - 1])) / np.log(2) > -2.1).all()
    assert np.nanmin(np.asarray(published_scaffold.runs(Scaffold(), 2, 80)(rates, gaps))[:, -1]) < 1e-3 * left[-1]


def test_rounds_until_a_target_are_counted_from_one() -> None:
    errors = np.array([5.0, 0.1, 3.0, 0.1, 0.1])
    assert published_scaffold.until(errors, 1.0) == 4
    assert published_scaffold.until(errors, 9.0) == 1
    assert published_scaffold.until(errors, 0.05) is None
    assert published_scaffold.until(np.array([0.1, np.nan]), 1.0) is None


@pytest.mark.parametrize(("late", "cell"), [("keep", (1.0, 0.5)), ("drop", (0.0, 0.5))])
def test_a_cell_side_by_side_is_the_run_of_its_config(monkeypatch, late, cell) -> None:
    small = replace(published_fedprox.CONFIG, local=replace(published_fedprox.CONFIG.local, epochs=3))
    monkeypatch.setattr(published_fedprox, "CONFIG", small)
    published_fedprox.program.cache_clear()
    found = published_fedprox.curves(DATA["(1, 1)"], 1, late, [(0.0, 0.0), cell], 5)

    config = replace(small, algorithm=FedProx(mu=cell[0]), conditions=Partial(share=cell[1], late=late), rounds=5)
    federation, plan = config.data.build(1), config.plan.resolve()
    sim, root = assemble(config, describe(federation), federation.train, plan), jax.random.key(1)
    state, *_ = segments.build(sim, plan, root, 5)(engine.first(sim, plan, root), 5)
    for name, field in (("training", "loss"), ("held-out", "accuracy")):
        judged = evaluate.build(sim.task, plan, {name: federation.tests[name]})(state)[name]
        figures = sim.task.summary(jax.tree.map(lambda x: x.sum(0), judged.metrics))
        np.testing.assert_allclose(getattr(found, field)[1, 0], figures[{"loss": "nll"}.get(field, field)], rtol=1e-4)
    assert found.loss[0, 0] != pytest.approx(found.loss[1, 0], rel=1e-3)
    published_fedprox.program.cache_clear()


def test_pfedme_s_task_in_small_learns() -> None:
    found = published_pfedme.accuracies(2, 8, Synthetic(0.5, 0.5, clients=12, times=5))
    assert found.shape == (2, 8)
    assert found[:, -1].min() > found[:, 0].max() - 0.1 and found.max() > 0.3
    assert (found[0] != found[1]).any()
    assert "77.62 ± 0.11" in published_pfedme.table(found)


def test_claims_are_counted_by_seed_and_the_table_has_every_cell() -> None:
    cells = [
        (name, share, method)
        for name in DATA
        for share in SHARES
        for method in ("FedAvg", "FedProx, mu 0", "FedProx, mu 1")
    ]
    lines = [
        Line(*cell, seed, 1.0 + (1.0, -0.5)[seed] * number, 0.25)
        for seed in (0, 1)
        for number, cell in enumerate(cells)
    ]
    rows = published_fedprox.claims(lines).splitlines()[2:]
    assert len(rows) == len(CLAIMS)
    for row, (_, low, high) in zip(rows, CLAIMS):
        assert row.endswith("| 1 of 2 |") and low[0] in row and high[2] in row
    table = published_fedprox.table(lines).splitlines()
    assert len(table) == 2 + len(DATA) * len(SHARES)
    assert table[2].startswith("| IID | 0% | 1.00 ± 0.00 | 25.0 ± 0.0 % | 1.25 ± 0.75 |")
