"""Samplers against the laws they promise: counts of clients and of pairs, trace by trace, and every bad setting."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.sampling import (
    Cohort,
    Cyclic,
    Diurnal,
    Everyone,
    Markov,
    Poisson,
    Population,
    Trace,
    Uniform,
    Weighted,
)
from fedjax_mri.fed.sampling.availability import read_trace
from fedjax_mri.fed.sampling.cohort import Draw
from fedjax_mri.fed.sampling.draws import poisson_places

SIZES = np.array([5, 1, 0, 30, 12, 2, 40, 10], np.int32)


def of_equals(number: int) -> Population:
    return Population(np.full(number, 10, np.int32))


@functools.cache
def drawer(sample: Draw) -> Callable:
    return jax.jit(jax.vmap(sample, (0, None)))


def many(sample: Draw, draws: int, seed: int = 0, round: int = 0) -> Cohort:
    """Cohorts of one round under many keys, NumPy [draws, ...]."""
    cohorts = drawer(sample)(jax.random.split(jax.random.key(seed), draws), jnp.int32(round))
    return jax.tree.map(np.asarray, cohorts)


def counts(cohorts: Cohort, number: int) -> np.ndarray:
    """How often each client was drawn, [draws, number]; no client is present twice."""
    found = np.zeros((len(cohorts.client), number))
    for row, client, present, times in zip(found, cohorts.client, cohorts.present, cohorts.times):
        assert len(set(client[present])) == present.sum()
        row[client[present]] = times[present]
    return found


def assert_chi_square(seen: np.ndarray, expected: np.ndarray, freedom: int) -> None:
    """Within four standard deviations of the law."""
    statistic = ((seen - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom), (statistic, freedom)


def test_a_cohort_has_no_client_twice_and_every_client_its_turn() -> None:
    sample = Uniform(5).build(of_equals(20)).draw
    cohorts = many(sample, 400, 0).client
    assert all(len(set(cohort)) == 5 for cohort in cohorts)
    counts = np.bincount(cohorts.ravel(), minlength=20)
    assert np.all(np.abs(counts - 100) < 4 * np.sqrt(75))


def test_every_two_clients_meet_as_often_as_any_other_two() -> None:
    """Counts of pairs in cohorts of 5 of 20 against the chi-square law."""
    draws = 2000
    sample = Uniform(5).build(of_equals(20)).draw
    cohorts = many(sample, draws, 5).client
    member = np.zeros((draws, 20))
    np.put_along_axis(member, cohorts, 1, 1)
    counts = (member.T @ member)[np.triu_indices(20, 1)]
    share = (5 * 4) / (20 * 19)
    statistic = ((counts - draws * share) ** 2 / (draws * share * (1 - share))).sum()
    assert abs(statistic - 190) < 4 * np.sqrt(2 * 190)


def test_a_cohort_of_everyone_is_a_permutation() -> None:
    cohort = Uniform(1000).build(of_equals(1000)).draw(jax.random.key(1), jnp.int32(0))
    assert sorted(np.asarray(cohort.client)) == list(range(1000))


def test_everyone_is_everyone() -> None:
    cohort = Everyone().build(of_equals(4)).draw(jax.random.key(0), jnp.int32(3))
    np.testing.assert_array_equal(cohort.client, np.arange(4))
    assert np.all(cohort.present)


def test_everyone_but_one() -> None:
    cohort = Everyone(2).build(of_equals(4)).draw(jax.random.key(0), jnp.int32(0))
    np.testing.assert_array_equal(np.asarray(cohort.client)[np.asarray(cohort.present)], [0, 1, 3])


def test_who_is_left_out_may_be_known_to_the_program_alone() -> None:
    present = jax.jit(lambda k: Everyone(k).build(of_equals(4)).draw(jax.random.key(0), jnp.int32(0)).present)
    np.testing.assert_array_equal(present(3), [True, True, True, False])
    assert np.all(present(-1))


def test_with_replacement_draws_are_independent() -> None:
    """Multinomial: means, variances and the covariance of two clients."""
    cohorts = many(Uniform(12, replace=True).build(of_equals(5)).draw, 4000)
    found = counts(cohorts, 5)
    np.testing.assert_array_equal(found.sum(1), 12)
    assert_chi_square(found.sum(0), np.full(5, 4000 * 12 / 5), 4)
    np.testing.assert_allclose(np.cov(found.T), 12 * (np.eye(5) / 5 - 1 / 25), atol=0.15)


def test_by_size_with_replacement_each_example_is_as_likely() -> None:
    found = counts(many(Weighted(6, replace=True).build(Population(SIZES)).draw, 3000), len(SIZES))
    np.testing.assert_array_equal(found.sum(1), 6)
    some = SIZES > 0
    assert_chi_square(found.sum(0)[some], 3000 * 6 * SIZES[some] / SIZES.sum(), some.sum() - 1)
    assert not found[:, ~some].any()


def test_by_size_without_replacement_is_an_urn() -> None:
    """Pairs in order against P(i, j) = p_i p_j / (1 - p_i)."""
    draws = 6000
    cohorts = many(Weighted(2).build(Population(SIZES)).draw, draws)
    assert cohorts.present.all()
    seen = np.zeros((len(SIZES), len(SIZES)))
    np.add.at(seen, tuple(cohorts.client.T), 1)
    p = SIZES / SIZES.sum()
    law = draws * p[:, None] * p[None] / (1 - p[:, None])
    np.fill_diagonal(law, 0)
    assert not seen[law == 0].any()
    assert_chi_square(seen[law > 5], law[law > 5], np.sum(law > 5) - 1)


def test_by_size_nobody_without_examples_is_present() -> None:
    cohort = Weighted(8).build(Population(SIZES)).draw(jax.random.key(0), jnp.int32(0))
    present = np.asarray(cohort.client)[np.asarray(cohort.present)]
    assert sorted(present) == list(np.flatnonzero(SIZES))


def test_poisson_clients_join_independently() -> None:
    sample, draws = Poisson(0.2).build(of_equals(40)).draw, 3000
    found = counts(many(sample, draws), 40)
    assert_chi_square(found.sum(0), np.full(40, draws * 0.2), 40 * 0.8)
    sizes = found.sum(1)
    assert abs(sizes.mean() - 8) < 4 * np.sqrt(6.4 / draws)
    assert abs(sizes.var() - 6.4) < 4 * 6.4 * np.sqrt(2 / draws)
    assert abs(np.mean(found[:, 0] * found[:, 39]) - 0.04) < 4 * np.sqrt(0.04 / draws)


@pytest.mark.parametrize(
    ("number", "rate"), [(1, 0.5), (40, 0.2), (1000, 0.05), (100_000, 0.001), (7, 1.0), (9, 1e-12)]
)
def test_poisson_has_as_few_places_as_it_promises(number: int, rate: float) -> None:
    from scipy.stats import binom

    room = poisson_places(number, rate)
    assert binom.sf(room, number, rate) < 1e-9
    assert room == 1 or binom.sf(room - 1, number, rate) >= 1e-9


def test_turns_go_round() -> None:
    sample = Cyclic(3).build(of_equals(5)).draw
    turns = [np.asarray(sample(jax.random.key(0), jnp.int32(round)).client) for round in range(5)]
    np.testing.assert_array_equal(np.concatenate(turns), np.tile(np.arange(5), 3))
    far = sample(jax.random.key(0), jnp.int32(2_000_000_000)).client
    np.testing.assert_array_equal(far, (3 * 2_000_000_000 + np.arange(3)) % 5)


def test_of_those_there_all_are_as_likely(tmp_path) -> None:
    there = np.zeros((2, 10), bool)
    there[0, ::2], there[1, [3, 7]] = True, True
    np.save(tmp_path / "there.npy", there)
    np.savetxt(tmp_path / "there.csv", there, fmt="%d", delimiter=",")
    np.testing.assert_array_equal(read_trace(str(tmp_path / "there.csv")), there)
    sample = Trace(3, str(tmp_path / "there.npy")).build(of_equals(10)).draw
    found = counts(many(sample, 1000), 10)
    np.testing.assert_array_equal(found.sum(1), 3)
    assert_chi_square(found.sum(0)[::2], np.full(5, 600.0), 4)
    few = counts(many(sample, 1000, round=3), 10)  # the second line again
    np.testing.assert_array_equal(few, np.broadcast_to(there[1], few.shape))


def test_a_day_has_its_hours() -> None:
    """Each client is there for a share of the day in one stretch, and all day long as many are."""
    settings = Diurnal(400, day=24.0, awake=0.25, seed=3)
    sample = jax.jit(settings.build(of_equals(400)).draw)
    days = np.stack([counts(many(sample, 1, round=round), 400)[0] for round in range(24)])
    np.testing.assert_array_equal(days.sum(0), 6)
    np.testing.assert_array_equal((np.diff(days, axis=0, append=days[:1]) == 1).sum(0), 1)
    assert np.all(np.abs(days.sum(1) - 100) < 4 * np.sqrt(400 * 0.25 * 0.75))
    together = jax.jit(Diurnal(5, awake=0.5, spread=0.0).build(of_equals(5)).draw)
    awake = [int(together(jax.random.key(0), jnp.int32(round)).present.sum()) for round in range(24)]
    assert awake == [5] * 12 + [0] * 12


def test_coming_and_going_is_stationary_from_the_first_round() -> None:
    settings, rounds, number = Markov(4, present=5.0, absent=15.0, seed=1), 400, 500
    trace = settings.trace(rounds, number)
    assert abs(trace[0].mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / number)
    assert abs(trace.mean() - 0.25) < 0.01
    before, after = trace[:-1], trace[1:]
    stayed, came = after[before].mean(), after[~before].mean()
    assert abs(stayed - 0.8) < 4 * np.sqrt(0.8 * 0.2 / before.sum())
    assert abs(came - 1 / 15) < 4 * np.sqrt(1 / 15 / (~before).sum())
    np.testing.assert_array_equal(settings.trace(30, number), trace[:30])
    sample = settings.build(Population(np.ones(number, np.int32), rounds=30)).draw
    for round in (0, 29):
        cohort = many(sample, 20, round=round)
        assert cohort.present.all() and trace[round][cohort.client].all()


LAWS = [
    (Uniform(5), "fixed", 0.25),
    (Uniform(5, replace=True), "replacement", 0.25),
    (Everyone(), "everyone", 1.0),
    (Everyone(3), "all but one", 0.95),
    (Poisson(0.2), "poisson", 0.2),
    (Weighted(4), "other", 0.2),
    (Cyclic(4), "cyclic", 0.2),
]


@pytest.mark.parametrize(("settings", "law", "rate"), LAWS, ids=str)
def test_a_sampler_says_its_law_and_what_share_of_the_clients_it_draws(settings, law: str, rate: float) -> None:
    sampler = settings.build(of_equals(20))
    assert sampler.law == law and sampler.rate == pytest.approx(rate) and sampler.max_staleness == 0
    drawn = counts(many(sampler.draw, 1000), 20).sum(1) / 20
    assert drawn.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / 20 / 1000) + 1e-9)


AVERAGES = [
    *(Uniform(3), Uniform(11, replace=True), Everyone(), Everyone(4), Poisson(0.4), Cyclic(3)),
    Weighted(11, replace=True),
]


@pytest.mark.parametrize("settings", AVERAGES, ids=str)
def test_the_weight_of_an_average_cohort_is_the_mean_over_cohorts(settings) -> None:
    sampler, weights = settings.build(Population(SIZES)), np.linspace(0.5, 3.0, len(SIZES), dtype=np.float32)
    drawn = np.concatenate([counts(many(sampler.draw, 300, round, round), len(SIZES)) for round in range(8)]) @ weights
    assert sampler.knows_expected_weight()
    error = 4 * drawn.std() / np.sqrt(len(drawn)) + 1e-4
    assert float(sampler.expected_weight(jnp.asarray(weights))) == pytest.approx(drawn.mean(), abs=error)


BAD = [
    (Uniform(0), "sampling.cohort=0: there are 8 clients; choose 1 to 8"),
    (Uniform(9), "there are 8 clients"),
    (Uniform(0, replace=True), "sampling.cohort=0"),
    (Everyone(8), "sampling.without=8: choose a client from 0 to 7"),
    (Weighted(9), "there are 8 clients"),
    (Poisson(0.0), "sampling.rate=0.0"),
    (Poisson(2.0), "sampling.rate=2.0"),
    (Poisson(float("nan")), "sampling.rate=nan"),
    (Cyclic(9), "sampling.cohort=9"),
    (Diurnal(9), "sampling.cohort=9"),
    (Diurnal(2, day=0.0), "sampling.day=0.0"),
    (Diurnal(2, awake=1.5), "sampling.awake=1.5"),
    (Markov(2, present=0.5), "sampling.present=0.5"),
    (Trace(2), "sampling.path: give"),
    (Trace(2, "/nowhere/trace.npy"), "/nowhere/trace.npy: cannot be read"),
]


@pytest.mark.parametrize(("settings", "says"), BAD, ids=str)
def test_bad_settings_are_refused_by_name(settings, says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        settings.build(Population(SIZES))
    assert "\n" not in str(refusal.value)


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(UserError, match="none of the 3 clients has an example"):
        Weighted(2).build(Population(np.zeros(3, np.int32)))


@pytest.mark.parametrize(("content", "says"), [("1,0\n0,1\n", "has 2 columns"), ("1,2\n", "table of 0 and 1"),
                                               ("a,b\n", "cannot be read"), ("", "trace.csv")])  # fmt: skip
def test_a_bad_trace_is_named(tmp_path, content: str, says: str) -> None:
    (tmp_path / "trace.csv").write_text(content)
    with pytest.raises(UserError, match=says):
        Trace(2, str(tmp_path / "trace.csv")).build(of_equals(3))
