"""The uplink: what is clipped, what is counted, what the server divides by, who may take part, and what travels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratics import ROOT, clients, four, matrices, ragged, run
from simulations import SIZES, classifier, error_feedback, half_median, images, simulation

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithm import sent_shapes, traffic
from fedjax_mri.fed.algorithms.ditto import Ditto
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.feddyn import FedDyn
from fedjax_mri.fed.algorithms.fednova import FedNova
from fedjax_mri.fed.algorithms.oneshot import OneShot
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import (
    Simulation,
    check_parts,
    check_simulation,
    init_state,
    initial_state,
    state_shapes,
)
from fedjax_mri.fed.sampling import (
    Asynchronous,
    Diurnal,
    Markov,
    Poisson,
    Population,
    Sampler,
    Weighted,
    cohort_of,
)
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import Aggregate, Reduce, RoundContext, Sender, Stage, Update, UplinkState
from fedjax_mri.fed.uplink.reductions.exact import exact
from fedjax_mri.fed.uplink.reductions.matrix import matrix
from fedjax_mri.fed.uplink.reductions.mean import mean
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import Clip, NonfiniteCount, clip, nonfinite_counts
from fedjax_mri.fed.uplink.weigh import by_examples
from fedjax_mri.tasks.task import Model

SENDER = Sender(jnp.int32(3), jnp.int32(0), jax.random.key(1), jnp.float32(7), jnp.float32(1), UplinkState((), ()))
PLAN = Plan(devices=2, lanes=2)
thorough = functools.partial(pytest.param, marks=pytest.mark.thorough)


def update(delta, auxiliary=(), weight: float = 1.0) -> Update:
    return Update(jax.tree.map(jnp.asarray, delta), jax.tree.map(jnp.asarray, auxiliary), jnp.float32(weight))


def with_stages(sim: Simulation, *stages: Stage) -> Simulation:
    return sim._replace(uplink=sim.uplink._replace(stages=chain(*stages)))


def at(total: float = 10.0, expected: float = 4.0) -> RoundContext:
    return RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(total), jnp.float32(expected))


# ---- clipping


def test_the_norm_that_is_clipped_is_that_of_the_change_alone() -> None:
    """A step count of 1e6 beside a change of norm 5 takes nothing off the change but what the bound does."""
    sent, state, notes = clip(1.0).client(
        update({"w": [3.0, 4.0]}, auxiliary=1e6), NonfiniteCount(jnp.float32(0)), SENDER
    )
    np.testing.assert_allclose(sent.delta["w"], [0.6, 0.8], rtol=1e-6)
    assert float(sent.auxiliary) == 1e6 and float(state.updates) == 0
    assert {name: float(value) for name, value in notes.items()} == {"clipped": 1, "nonfinite": 0}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_change_that_is_not_finite_becomes_zero_and_is_counted(bad: float) -> None:
    sent, state, notes = clip(1.0).client(
        update({"w": [3.0, bad]}, auxiliary=np.nan), NonfiniteCount(jnp.float32(2)), SENDER
    )
    assert not np.any(sent.delta["w"]) and float(sent.auxiliary) == 0 and float(sent.weight) == 1
    assert float(state.updates) == 3
    assert {name: float(value) for name, value in notes.items()} == {"clipped": 0, "nonfinite": 1}


def test_one_bad_client_leaves_the_others_update_whole() -> None:
    """Client 2's examples are infinite: the server moves by the others' updates, and the log says who it was."""
    A, b = matrices(SIZES.sum())
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    b[owner == 2] = np.inf
    sim = with_stages(four(FedAvg()), clip(0.5))._replace(data=clients(A, b, SIZES))
    sim = sim._replace(sampler=simulation(classifier(), images()).sampler)
    plan = PLAN.resolve()
    state, stats, _ = segments.build(sim, plan, ROOT, 2)(initial_state(sim, plan, ROOT), 2)
    assert np.isfinite(np.concatenate(jax.tree.leaves(state.server.model.params))).all()
    np.testing.assert_array_equal(stats.notes["clip/nonfinite"], [1, 1])
    np.testing.assert_array_equal(nonfinite_counts(state.clients.uplink), np.where(np.arange(len(SIZES)) == 2, 2, 0))


@pytest.mark.parametrize("settings", [Ditto(), thorough(OneShot())], ids=str)
def test_a_bad_client_keeps_what_it_had_and_the_round_s_metrics_are_those_of_the_others(settings) -> None:
    """As if client 2 had no examples, but that it is counted and that its weight is in the mean."""
    A, b = matrices(SIZES.sum())
    b[np.repeat(np.arange(len(SIZES)), SIZES) == 2] = np.inf
    sim = with_stages(four(settings), clip(0.5))._replace(data=clients(A, b, SIZES))
    sim = sim._replace(sampler=simulation(classifier(), images()).sampler)
    without = sim._replace(data=sim.data._replace(sizes=np.where(np.arange(len(SIZES)) == 2, 0, SIZES)))
    plan = PLAN.resolve()
    first = jax.tree.map(np.array, initial_state(sim, plan, ROOT))
    state, stats, _ = segments.build(sim, plan, ROOT, 1)(initial_state(sim, plan, ROOT), 1)
    _, others, _ = segments.build(without, plan, ROOT, 1)(initial_state(without, plan, ROOT), 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats.metrics, others.metrics)
    assert stats.clients == others.clients + 1 and float(others.metrics.weight[0]) > 0
    own = lambda state: jax.tree.leaves((state.clients.model, state.clients.state))  # noqa: E731
    for after, before in zip(own(state), own(first), strict=True):
        assert np.isfinite(after).all()
        np.testing.assert_array_equal(after[2], before[2])


def test_if_all_clients_are_bad_the_model_stays() -> None:
    A, b = matrices(SIZES.sum())
    sim = with_stages(four(FedAvg()), clip(0.5))._replace(data=clients(A, b * np.inf, SIZES))
    sim = sim._replace(sampler=simulation(classifier(), images()).sampler)
    plan = PLAN.resolve()
    first = jax.tree.map(np.array, initial_state(sim, plan, ROOT).server.model)
    state, *_ = segments.build(sim, plan, ROOT, 1)(initial_state(sim, plan, ROOT), 1)
    jax.tree.map(np.testing.assert_array_equal, state.server.model, first)


@pytest.mark.parametrize("settings", [Scaffold(), thorough(FedDyn(0.3))], ids=str)
def test_the_server_s_sum_is_that_of_its_clients_when_updates_are_clipped(settings) -> None:
    """c = sum p_k c_k and h = sum p_k g_k: clients remember what they sent, not what they meant."""
    sim = with_stages(ragged(settings), clip(0.02))
    state = run(sim, 5)
    shares = np.asarray(sim.data.sizes, np.float64) / sim.data.sizes.sum()
    total = jax.tree.map(lambda c: np.tensordot(shares, np.asarray(c, np.float64), 1), state.clients.state)
    assert trees.norm(total) > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), state.server.extra, total)


# ---- shapes of state, bytes on the wire


@pytest.mark.parametrize("settings", [FedAvg(), Scaffold(), FedNova()], ids=str)
def test_stages_are_told_the_shapes_of_what_is_sent(settings) -> None:
    sim = four(settings)
    first = init_state(sim, ROOT)
    told = []
    spy = Stage("spy", init=lambda sent: told.append(sent) or (), init_client=lambda sent: told.append(sent) or ())
    init_state(with_stages(sim, spy), ROOT)
    sent = sent_shapes(sim.algorithm, first.server.model)
    assert len(told) == 2 and all(one == sent for one in told)
    assert jax.tree.structure(sent.auxiliary) != jax.tree.structure(()) or isinstance(settings, FedAvg)


def half_precision() -> Stage:
    """Values travel as float16."""

    def client(sent: Update, state, sender):
        return sent._replace(delta=jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), sent.delta)), state, {}

    return Stage("half", client=client, wire=lambda sent, nbytes: nbytes - trees.nbytes(sent.delta) // 2)


@pytest.mark.parametrize("settings", [FedAvg(), Scaffold(), FedNova()], ids=str)
def test_bytes_on_the_wire_are_those_of_a_serialised_update(settings) -> None:
    sim = with_stages(four(settings), half_precision())
    model = init_state(sim, ROOT).server.model
    sent = jax.tree.map(lambda shape: np.ones(shape.shape, shape.dtype), sent_shapes(sim.algorithm, model))
    halves = [leaf.astype(np.float16).tobytes() for leaf in jax.tree.leaves(sent.delta)]
    whole = [leaf.tobytes() for leaf in jax.tree.leaves(sent.auxiliary)]
    assert traffic(sim.algorithm, sim.uplink, model).up == len(b"".join(halves + whole))


def test_what_a_round_costs_counts_both_ways_apart() -> None:
    sim = with_stages(four(FedAvg()), half_precision())
    plan = PLAN.resolve()
    _, stats, _ = segments.build(sim, plan, ROOT, 1)(initial_state(sim, plan, ROOT), 1)
    each = traffic(sim.algorithm, sim.uplink, init_state(sim, ROOT).server.model)
    assert each.up == each.down // 2
    np.testing.assert_allclose([stats.cost.up_mb[0], stats.cost.down_mb[0]], [4e-6 * each.up, 4e-6 * each.down])


# ---- reductions


def test_the_expected_divisor_is_a_constant_that_no_client_moves() -> None:
    """With the mean over what came, a third client changes the divisor; with the constant the sum moves by its part."""

    def reduced(divisor, deltas):
        reduce = mean(divisor)
        several = update(Model({"w": np.stack(deltas)}, {}), weight=0)._replace(weight=jnp.ones(len(deltas)))
        total = reduce.zero(jax.tree.map(lambda x: x[0], several), 3)
        places = jnp.arange(len(deltas), dtype=jnp.int32)
        return np.asarray(reduce.finish(reduce.add(total, several, places), (), at())[0].delta.params["w"])

    two, third = [np.float32([1, 0]), np.float32([0, 1])], np.float32([1, 1])
    np.testing.assert_allclose(reduced("expected", [*two, third]) - reduced("expected", two), third / 4)
    np.testing.assert_allclose(reduced("realised", two), [0.5, 0.5])


def test_the_expected_divisor_is_unbiased_over_poisson_cohorts() -> None:
    """The mean over cohorts of sum / (q N), empty cohorts included, is the mean over everyone."""
    q, deltas, draws = 0.4, np.arange(5.0), 4000
    sampler, reduce = Poisson(q).build(Population(np.ones(5, np.int32))), mean("expected")

    def one(key: jax.Array) -> jax.Array:
        cohort = sampler.draw(key, jnp.int32(0))
        values = jnp.asarray(deltas, jnp.float32)[cohort.client]
        sent = Update(Model(values, ()), (), jnp.ones(values.shape))
        places = jnp.where(cohort.present, jnp.arange(len(values), dtype=jnp.int32), -1)
        total = reduce.add(reduce.zero(Update(Model(jnp.float32(0), ()), (), jnp.float32(0)), 5), sent, places)
        return reduce.finish(total, (), at(5.0, 5.0 * sampler.rate))[0].delta.params

    found = np.asarray(jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, draws)))(jax.random.key(2)))
    error = np.sqrt(np.sum(deltas**2) * q * (1 - q)) / (q * 5) / np.sqrt(draws)
    assert abs(found.mean() - deltas.mean()) < 4 * error


@pytest.mark.parametrize("reduce", [mean("expected"), exact("expected")], ids=lambda reduce: reduce.name)
def test_the_expected_divisor_is_refused_where_nobody_knows_it(reduce: Reduce) -> None:
    """Where clients come unequally often, as their availability or their speed says."""
    clients = Population(SIZES, np.ones_like(SIZES), rounds=3)
    settings = Weighted(2), Diurnal(4), Markov(4), Asynchronous(2, 4, latest=0)
    for sampler in (one.build(clients) for one in settings):
        sim = four(FedAvg())._replace(sampler=sampler)
        check_parts(sim, state_shapes(sim))
        with pytest.raises(UserError, match="divisor realised"):
            check_parts(sim._replace(uplink=sim.uplink._replace(reduce=reduce)), state_shapes(sim))


def test_a_rule_takes_updates_of_which_nothing_is_shared() -> None:
    """As under local training alone."""
    reduce = Median().build()
    total = reduce.zero(Update({}, (), jnp.float32(0)), 3)
    assert reduce.finish(total, (), at())[0].delta == {}


def test_the_median_is_numpy_s_and_bad_rows_count_as_zero() -> None:
    rng = np.random.default_rng(0)
    for sent in (0, 4, 5):
        rows, reduce = rng.normal(size=(sent, 3)).astype(np.float32), Median().build()
        if sent == 5:
            rows[2, 1] = np.nan
        several = Update(rows, (), np.ones(sent, np.float32))
        empty = reduce.zero(Update(np.zeros(3, np.float32), (), np.float32(0)), 6)
        total = jax.jit(reduce.add)(empty, several, np.arange(sent, dtype=np.int32)) if sent else empty
        found = jax.jit(reduce.finish)(total, (), at())[0]
        wanted = np.median(np.where(np.isnan(rows).any(1, keepdims=True), 0, rows), 0) if sent else np.zeros(3)
        np.testing.assert_allclose(found.delta, wanted, rtol=1e-6)
        assert float(found.clients) == sent


# ---- a round in which nobody comes


@pytest.mark.parametrize("empty_round", ["skip", "release"])
def test_an_empty_round_moves_the_server_only_where_the_uplink_says_so(empty_round) -> None:
    """Differential privacy releases noise in each round; everything else leaves the model where it is."""

    def noise(aggregate: Aggregate, seen: jax.Array, at: RoundContext):
        shaken = jax.tree.map(lambda x: x + jax.random.normal(at.key, x.shape), aggregate.delta)
        return aggregate._replace(delta=shaken), seen + 1

    def nobody(key: jax.Array, round: jax.Array):
        return cohort_of(jnp.arange(4, dtype=jnp.int32), jnp.zeros(4, bool))

    sim = with_stages(four(FedAvg()), Stage("noise", init=lambda sent: jnp.int32(0), server=noise))
    uplink = sim.uplink._replace(empty_round=empty_round)
    sim = sim._replace(sampler=Sampler(nobody, "poisson", 0.5), uplink=uplink)
    first, state = init_state(sim, ROOT), run(sim, 2)
    moved = float(trees.norm(trees.subtract(state.server.model.params, first.server.model.params)))
    assert (moved > 0.1) == (empty_round == "release")
    assert int(state.uplink.stages["noise"]) == (2 if empty_round == "release" else 0)


# ---- who may take part


def test_a_stage_says_what_it_cannot_take_part_in() -> None:
    """Here: no control variates beside the change."""

    def alone(parts) -> None:
        if jax.tree.leaves(parts.sent.auxiliary):
            raise UserError(
                "uplink.stages strict: the algorithm sends more than its change; choose --fed.algorithm fedavg"
            )

    strict = Stage("strict", check_compatible=alone)
    check_simulation(with_stages(four(FedAvg()), strict), PLAN.resolve())
    with pytest.raises(UserError, match=r"choose --fed\.algorithm fedavg"):
        check_simulation(with_stages(four(Scaffold()), strict), PLAN.resolve())


def test_a_chain_knows_its_sensitivity_and_whether_it_is_linear() -> None:
    half = Stage("half", sensitivity=lambda bound: bound / 2, linear=True)
    assert chain(clip(3.0), half).sensitivity(float("inf")) == 1.5
    assert chain(half, clip(3.0)).sensitivity(float("inf")) == 3.0
    assert chain(half, clip(3.0)).linear and not chain(half, Stage("other")).linear and chain().linear
    assert chain(clip(1.0), error_feedback(0.1)).sensitivity(1.0) == float("inf")
    assert mean().linear and not Median().build().linear


BAD_STAGES = {
    "another shape": (
        {"client": lambda u, s, _: (u._replace(delta=jax.tree.map(jnp.sum, u.delta)), s, {})},
        r"float32 \[\]",
    ),
    "another type": (
        {"client": lambda u, s, _: (u._replace(delta=jax.tree.map(jnp.bfloat16, u.delta)), s, {})},
        "bfloat16",
    ),
    "no notes": ({"client": lambda u, s, _: (u, s)}, "an update, a state and a dict of notes"),
    "a note of integers": ({"client": lambda u, s, _: (u, s, {"count": jnp.int32(1)})}, r"int32 \[\] as 2.count"),
    "a note of several": ({"client": lambda u, s, _: (u, s, {"count": jnp.ones(3)})}, r"float32 \[3\] as 2.count"),
    "state from nowhere": ({"client": lambda u, s, _: (u, jnp.float32(1), {})}, "where nothing is wanted"),
    "state of another type": (
        {"init": lambda sent: jnp.int32(0), "server": lambda a, s, at: (a, s + jnp.float32(1))},
        "server returns",
    ),
    "negative bytes": ({"wire": lambda sent, nbytes: -5}, "wire gives -5 bytes"),
}


@pytest.mark.parametrize("case", BAD_STAGES)
def test_a_stage_that_changes_what_it_must_keep_is_named(case: str) -> None:
    parts, says = BAD_STAGES[case]
    with jax.numpy_dtype_promotion("standard"), pytest.raises(UserError, match=f"uplink.stages mine: .*{says}"):
        check_simulation(with_stages(four(Scaffold()), Stage("mine", **parts)), PLAN.resolve())


def test_two_stages_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="clip occurs twice"):
        UplinkSettings(clip=1.0, stages=(Clip(2.0),)).build()


def test_settings_become_an_uplink() -> None:
    uplink = UplinkSettings(clip=0.5, stages=(), reduce=Median()).build()
    assert uplink.weigh is by_examples and uplink.stages.name == "clip" and uplink.reduce.name == "median"
    assert uplink.stages.sensitivity(float("inf")) == 0.5
    with pytest.raises(UserError, match="bound=0"):
        UplinkSettings(stages=(Clip(0.0),)).build()
    for bad in (-1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"uplink\.clip="):
            dataclasses.replace(UplinkSettings(), clip=bad).build()
    with pytest.raises(UserError, match=r"uplink\.stages=clip: choose it by name, --fed"):
        UplinkSettings(stages=("clip",)).build()


def test_each_part_of_a_chain_has_a_key_of_its_own() -> None:
    def note_key(sent: Update, state, sender: Sender):
        return sent, state, {"draw": jax.random.uniform(sender.key)}

    one, two = Stage("one", client=note_key), Stage("two", client=note_key)
    _, _, notes = chain(one, two).client(update({"w": [1.0]}), {"one": (), "two": ()}, SENDER)
    assert set(notes) == {"one/draw", "two/draw"} and len({float(draw) for draw in notes.values()}) == 2


def test_rows_cost_as_many_updates_as_the_cohort_has_places() -> None:
    reduce = matrix(half_median())
    sent = Update({"w": jnp.zeros((2, 3))}, (), jnp.float32(0))
    assert trees.nbytes(reduce.zero(sent, 5).delta) == 5 * trees.nbytes(sent.delta)
