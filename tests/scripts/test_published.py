"""Published results: SCAFFOLD's quadratics against closed forms and NumPy, FedProx's cells, the tables."""

from dataclasses import replace

import jax
import numpy as np
import published_fedprox
import published_pfedme
import published_scaffold
import pytest
from published_fedprox import CLAIMS, DATA, SHARES, Line
from published_scaffold import CURVATURE, GAPS, RATE, SLOPE, START, Run

from fedjax_mri.data.resident import whole
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.simulation import initial_state
from fedjax_mri.fed.world.conditions import Partial
from fedjax_mri.run.assemble import assemble, describe

RATES = np.geomspace(1e-3, 1, 60)
PLAIN = [Run(steps, RATE, gap, 0) for steps in (1, 2, 10) for gap in GAPS]
CORRECTED = [Run(steps, RATE, gap, primed) for primed in (0, 1) for steps in (2, 10) for gap in GAPS]


@pytest.fixture(scope="module")
def found() -> dict[tuple, np.ndarray]:
    """Errors [80] by (method, K, rate, G, primed), all of a method's from one program."""
    tuned = [Run(2, rate, 1.0, 0) for rate in RATES]
    methods = {"FedAvg": (FedAvg(), PLAIN), "SCAFFOLD": (Scaffold(), CORRECTED)}
    return {
        (name, *run): one
        for name, (algorithm, runs) in methods.items()
        for run, one in zip(runs + tuned, published_scaffold.errors(algorithm, runs + tuned, 80))
    }


@pytest.mark.parametrize("gap", GAPS)
def test_one_local_step_is_gradient_descent(found, gap) -> None:
    expected = START * (1 - RATE) ** np.arange(1, 81)
    np.testing.assert_allclose(np.sqrt(2 * found["FedAvg", 1, RATE, gap, 0]), expected, atol=1e-6 * gap)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("steps", [2, 10])
def test_fedavg_ends_at_its_biased_fixed_point(found, steps, gap) -> None:
    end = found["FedAvg", steps, RATE, gap, 0][-1]
    assert end == pytest.approx(published_scaffold.drift(steps, RATE, gap) ** 2 / 2, rel=1e-3)
    assert end > 1e-3  # far from the optimum, and the farther the larger G


def plain_scaffold(run: Run) -> np.ndarray:
    """|x| after each of 80 rounds of algorithm 1 with option II, in float64."""
    slope, x = run.gap * SLOPE.astype(float), START
    c = run.primed * (CURVATURE * x + slope)
    path = []
    for _ in range(80):
        y = np.full(2, x)
        for _ in range(run.steps):
            y = y - RATE * (CURVATURE * y + slope - c + c.mean())
        c, x = c - c.mean() + (x - y) / (run.steps * RATE), y.mean()
        path.append(abs(x))
    return np.array(path)


@pytest.mark.parametrize("run", CORRECTED)
def test_scaffold_is_the_paper_s(found, run) -> None:
    np.testing.assert_allclose(np.sqrt(2 * found["SCAFFOLD", *run]), plain_scaffold(run), atol=2e-6 * run.gap)


@pytest.mark.parametrize("steps", [2, 10])
def test_no_gap_slows_scaffold_but_in_the_first_round_of_control_variates_that_are_zero(found, steps) -> None:
    primed, zero = ([np.sqrt(found["SCAFFOLD", steps, RATE, gap, start]) for gap in (1.0, 100.0)] for start in (1, 0))
    np.testing.assert_allclose(*primed, atol=2e-4)
    drift = steps * RATE - (1 - (1 - 2 * RATE) ** steps) / 2  # FedAvg's first round, per unit of G, times 2
    np.testing.assert_allclose(abs(zero[1][0] - zero[0][0]), 99 * drift / 2 / np.sqrt(2), rtol=1e-3)


def test_scaffold_is_twice_as_fast_with_two_steps_and_five_times_with_ten(found) -> None:
    """Section 7.2, at one rate for all."""
    keys = ("FedAvg", 1, RATE, 1.0, 0), ("SCAFFOLD", 2, RATE, 1.0, 1), ("SCAFFOLD", 10, RATE, 1.0, 1)
    sgd, two, ten = (published_scaffold.until(found[key], 1e-6) for key in keys)
    assert sgd / two == pytest.approx(2, abs=0.1)
    assert 4 < sgd / ten < 7


def test_no_rate_saves_fedavg_from_the_lower_bound(found) -> None:
    """Theorem II: at least a constant times G^2 / (mu R^2) is left, whatever the rate; SCAFFOLD leaves far less."""
    fedavg, scaffold = (
        np.nanmin([found[name, 2, rate, 1.0, 0] for rate in RATES], 0) for name in ("FedAvg", "SCAFFOLD")
    )
    budget = np.array([10, 20, 40, 80])
    assert (fedavg[budget - 1] * budget**2 > 0.5).all()
    assert scaffold[-1] < 1e-3 * fedavg[-1]


def test_rounds_until_a_target_are_counted_from_one() -> None:
    errors = np.array([5.0, 0.1, 3.0, 0.1, 0.1])
    assert published_scaffold.until(errors, 1.0) == 4
    assert published_scaffold.until(errors, 9.0) == 1
    assert published_scaffold.until(errors, 0.05) is None
    assert published_scaffold.until(np.array([0.1, np.nan]), 1.0) is None


@pytest.mark.thorough  # tests/study/test_sweep.py compares members with runs
def test_a_cell_side_by_side_is_the_run_of_its_config(monkeypatch) -> None:
    small = replace(published_fedprox.CONFIG, local=replace(published_fedprox.CONFIG.local, epochs=2))
    monkeypatch.setattr(published_fedprox, "CONFIG", small)
    monkeypatch.setattr(published_fedprox, "EVERY", 2)
    monkeypatch.setattr(published_fedprox, "ROWS", 2**13)
    published_fedprox.program.cache_clear()
    found = published_fedprox.curves(DATA["(1, 1)"], 1, "keep", [(0.0, 0.0), (1.0, 0.5)], 2)
    published_fedprox.program.cache_clear()

    config = replace(small, algorithm=FedProx(mu=1.0), conditions=Partial(share=0.5), rounds=2)
    federation, plan = config.data.build(1), config.plan.resolve()
    sim, root = assemble(config, describe(federation), federation.train, plan), jax.random.key(1)
    state, *_ = segments.build(sim, plan, root, 2)(initial_state(sim, plan, root), 2)
    for name, field, figure in (("training", "loss", "nll"), ("held-out", "accuracy", "accuracy")):
        tested = whole(federation.tests[name].data).fields
        sums = sim.task.evaluate(*state.server.model, {**tested, "weight": np.ones(len(tested["label"]), np.float32)})
        np.testing.assert_allclose(getattr(found, field)[1, 0], sim.task.summary(sums)[figure], rtol=1e-4)
    assert found.loss[0, 0] != pytest.approx(found.loss[1, 0], rel=1e-3)


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
