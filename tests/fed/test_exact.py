"""Sums that do not depend on their order: the reduction alone, and whole runs on other numbers of devices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratics import ragged
from simulations import classifier, error_feedback, images, simulation

from fedjax_mri.core import programs
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, initial_state
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, Stage, Update, Uplink
from fedjax_mri.fed.uplink.reductions.exact import Exact, digits_for, exact
from fedjax_mri.fed.uplink.reductions.mean import mean
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import clip
from fedjax_mri.fed.uplink.weigh import by_examples
from fedjax_mri.tasks.task import Model

ROOT = jax.random.key(11)
AT = RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(1), jnp.float32(1))


def drawn(terms: int, spread: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights [K] and values [K, 500] whose magnitudes differ by up to 2^spread, many of which nearly cancel."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(terms, 500)) * 2.0 ** rng.uniform(-spread, 0, (terms, 500))
    values[1::2] -= values[::2][: terms // 2]
    return rng.integers(1, 300, terms).astype(np.float32), values.astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def mean_of(reduce: Reduce, weights: jax.Array, values: jax.Array, lanes: int = 1, devices: int = 1):
    """The aggregate, where each of some devices adds a share of the updates, `lanes` of them at a time."""
    zero = reduce.zero(Update(Model(values[0], ()), (), weights[0]), len(weights))

    def one_device(weights: jax.Array, values: jax.Array):
        groups = weights.reshape(-1, lanes), values.reshape(-1, lanes, values.shape[-1])
        add = lambda total, each: (reduce.add(total, Update(Model(each[1], ()), (), each[0]), PLACES[:lanes]), None)  # noqa: E731
        return reduce.merge(jax.lax.scan(add, zero, groups)[0], "devices")

    shares = weights.reshape(devices, -1), values.reshape(devices, -1, values.shape[-1])
    merged = jax.vmap(one_device, axis_name="devices")(*shares)
    return reduce.finish(jax.tree.map(lambda leaf: leaf[0], merged), (), AT)[0]


PLACES = jnp.arange(240, dtype=jnp.int32)
ORDERLESS, FLOATS = exact(), mean()


def assert_same_bits(a: jax.Array, b: jax.Array) -> None:
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


@pytest.mark.parametrize(("terms", "digits"), [(24, 2), (240, 3)])
@pytest.mark.parametrize("spread", [0, 20, 90])
def test_the_order_changes_no_bit_and_the_error_is_within_its_bound(terms: int, digits: int, spread: int) -> None:
    weights, values = drawn(terms, spread)
    assert digits_for(terms) == digits
    found = mean_of(ORDERLESS, weights, values)
    products = weights[:, None].astype(np.float64) * values
    bound = terms * 2.0**-21 * np.abs(products).max(0) / weights.sum()
    assert np.all(np.abs(np.asarray(found.delta.params) - products.sum(0) / weights.sum()) <= bound)
    for seed, (lanes, devices) in enumerate([(1, 1), (3, 1), (1, 8), (3, 4), (12, 2)]):
        order = np.random.default_rng(seed).permutation(terms)
        again = mean_of(ORDERLESS, weights[order], values[order], lanes, devices)
        jax.tree.map(assert_same_bits, again, found)


def test_floats_would_depend_on_the_order() -> None:
    weights, values = drawn(24, 0)
    found, again = (mean_of(FLOATS, weights[order], values[order]) for order in (slice(None), slice(None, None, -1)))
    assert np.any(found.delta.params != again.delta.params)


def test_sums_of_digits_have_room_for_all_terms() -> None:
    """Two digits of 24 bits for up to 127 terms, here with all bits set; then three of 12."""
    assert [digits_for(terms) for terms in (1, 127, 128, 2**19 - 1, 2**19, 2**23 - 1)] == [2, 2, 3, 3, 4, 4]
    sums = exact("expected")  # whose divisor is 1
    for terms in (127, 128, 240):
        values = np.tile(np.float32([2**24 - 1, -(2**24 - 1) * 2.0**90, (2**24 - 1) * 2.0**-90]), (terms, 1))
        found = mean_of(sums, np.ones(terms, np.float32), values).delta.params
        np.testing.assert_array_equal(found, np.float32(values.astype(np.float64).sum(0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_or_becomes_so_by_its_weight_is_not_a_number_in_any_order(bad: float) -> None:
    for place in (0, 5, 23):
        weights, values = drawn(24, 20)
        values[place, 7] = bad
        found = np.asarray(mean_of(ORDERLESS, weights + 1, values, 3, 4).delta.params)
        assert np.isnan(found[7]) and np.isfinite(np.delete(found, 7)).all()


def test_zeros_and_the_smallest_floats() -> None:
    weights, tiny = np.ones(24, np.float32), np.finfo(np.float32).tiny
    values = np.tile(np.array([0.0, tiny, -2 * tiny, 1e-30], np.float32), (24, 1))
    found = np.asarray(mean_of(ORDERLESS, weights, values).delta.params)
    np.testing.assert_allclose(found, values[0], rtol=1e-6)


def test_settings_choose_it_and_its_divisor() -> None:
    uplink = UplinkSettings(reduce=Exact("expected")).build()
    assert uplink.reduce.name == "exact" and uplink.reduce.linear
    weights, values = drawn(24, 5)
    expected = mean_of(uplink.reduce, weights, values).delta.params
    np.testing.assert_allclose(expected, (weights[:, None] * values).sum(0), atol=1e-2)


# ---- whole runs


def sent_exactly(sim: Simulation, *stages: Stage, reduce: Reduce = ORDERLESS) -> Simulation:
    return sim._replace(uplink=Uplink(by_examples, chain(*stages), reduce))


RUNS: dict[str, Callable[..., Simulation]] = {
    "FedAvg, a network with BatchNorm": lambda **more: sent_exactly(
        simulation(classifier(norm="batch"), images()), **more
    ),
    "SCAFFOLD, stages with state": lambda **more: sent_exactly(
        ragged(Scaffold()), clip(0.5), error_feedback(0.5), **more
    ),
}


@pytest.fixture
def optimised(users_options, monkeypatch) -> None:
    """Programs as users have them; without optimisation XLA rounds the same step in other ways in other programs."""
    monkeypatch.setattr(programs, "xla_options", users_options)


def trained(sim: Simulation, devices: int, runs: int = 1) -> list[State]:
    """The states after three rounds with one lane on each device, of some runs."""
    plan = Plan(devices=devices, lanes=1).resolve()
    segment = segments.build(sim, plan, ROOT, 3)
    return [segment(initial_state(sim, plan, ROOT), 3)[0] for _ in range(runs)]


@pytest.mark.parametrize("case", RUNS)
def test_runs_on_other_numbers_of_devices_end_with_the_same_bits(case: str, optimised) -> None:
    """And so do two runs on the same devices."""
    first, *others = trained(RUNS[case](), 1, runs=2)
    for state in (*others, *trained(RUNS[case](), 8 if "FedAvg" in case else 2)):
        jax.tree.map(assert_same_bits, (state.server, state.uplink), (first.server, first.uplink))
        jax.tree.map(np.testing.assert_array_equal, state.clients, first.clients)


@pytest.mark.thorough  # of runs, as `test_floats_would_depend_on_the_order` is of sums
def test_with_sums_of_floats_they_do_not(optimised) -> None:
    ends = [
        jax.tree.leaves(trained(RUNS["SCAFFOLD, stages with state"](reduce=FLOATS), devices)[0].server)
        for devices in (1, 2)
    ]
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*ends, strict=True))
