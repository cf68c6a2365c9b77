"""Members of one program are the runs they stand for, to the last bit where they take turns."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, adam, classifier, images, procedural, simulation, two_players

from fedjax_mri.core import programs
from fedjax_mri.data.contract import Test
from fedjax_mri.data.pooled import pool
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.engine import evaluate, members, segments
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.members import GroupMember
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, initial_state
from fedjax_mri.fed.sampling import Population, Uniform


@pytest.fixture
def as_users_run(users_options, monkeypatch) -> None:
    """Two programs round alike, to the last bit, where XLA optimises them as it does for users."""
    monkeypatch.setattr(programs, "xla_options", users_options)


DATA = [images(), images(np.roll(SIZES, 3)[::-1].copy() * 2)]  # the second has more rows
RATES = [0.75, 0.5, 1.5]  # a constant of 1 would be simplified away, and the rest rounded otherwise
PLACES = (0, 1, 1)  # of the members' data
OWNER = np.array([0, 1, 2, -1, 4, 5, 6, 7, 8], np.int32)
SIMULATIONS = {
    "clients keep statistics": lambda data: simulation(classifier(norm="batch", statistics="local"), data),
    "a cohort with a player at home": lambda data: simulation(
        two_players(), data, local=adam(), sampler=Uniform(4).build(Population(SIZES))
    ),
}


def group(make, plan: Plan) -> members.RunGroup:
    """Three members: one on the first data set, two on the second; each with a seed and a rate of its own."""

    def made(hyperparameters, sizes):
        sim = make(DATA[0]._replace(sizes=sizes))
        return sim._replace(algorithm=FedAvg(server_rate=hyperparameters["rate"]).build())

    each = [
        GroupMember({"rate": jnp.float32(r)}, jax.random.key(i), jnp.int32(p))
        for i, (r, p) in enumerate(zip(RATES, PLACES))
    ]
    return members.place_on_devices(made, plan, each, DATA)


@functools.cache
def built(case: str, way: str, devices: int):
    """A group whose members are trained in that way, and its segment of two rounds, compiled as the test that asks."""
    several = group(SIMULATIONS[case], replace(Plan(devices=devices, lanes=2).resolve(), members=way))
    return several, members.build(several, members.first_states(several), 2)


@functools.cache
def alone(case: str, number: int, plan: Plan) -> tuple[State, RoundStats]:
    """The run that a member stands for."""
    sim, root = SIMULATIONS[case](DATA[PLACES[number]]), jax.random.key(number)
    sim = sim._replace(algorithm=FedAvg(server_rate=RATES[number]).build())
    segment, state = segments.build(sim, plan, root, 2), initial_state(sim, plan, root)
    for rounds in (2, 1):
        state, work, _ = segment(state, rounds)
    return state, work


@pytest.mark.parametrize(
    ("case", "way", "devices"),
    [
        pytest.param("clients keep statistics", "map", 2, marks=pytest.mark.thorough),
        ("a cohort with a player at home", "vmap", 2),
        ("a cohort with a player at home", "map", 8),
        pytest.param("a cohort with a player at home", "map", 2, marks=pytest.mark.thorough),
    ],
)
def test_members_are_the_runs_they_stand_for(case, way, devices, as_users_run) -> None:
    several, segment = built(case, way, devices)
    assert several.each.devices == (1 if devices == 2 else 8)
    state = members.first_states(several)
    for rounds in (2, 1):
        state, work = segment(state, np.full(3, rounds))
    for number in (0, 2) if "keep" in case else (2,):
        wanted = alone(case, number, replace(several.each, members="auto"))
        for ours, theirs in zip(jax.tree.leaves((state, work)), jax.tree.leaves(wanted), strict=True):
            if way == "map":
                np.testing.assert_array_equal(np.asarray(ours)[number], theirs)
            else:
                np.testing.assert_allclose(np.asarray(ours)[number], theirs, rtol=1e-5, atol=1e-6)


def test_a_member_of_no_rounds_stays_as_it_is() -> None:
    several, segment = built("clients keep statistics", "map", 2)
    before = jax.tree.map(np.asarray, members.first_states(several))
    after, _ = segment(members.first_states(several), np.array([2, 0, 1]))
    moved = [
        np.abs(x - y).max() for x, y in zip(jax.tree.leaves(after.server.model), jax.tree.leaves(before.server.model))
    ]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y[1]), after, before)
    assert max(moved) > 1e-3 and list(np.asarray(after.round)[:3]) == [2, 0, 1]


@pytest.mark.parametrize("way", ["map", "vmap"])
def test_members_are_judged_as_alone(way) -> None:
    make, plan = SIMULATIONS["clients keep statistics"], replace(Plan(devices=2, lanes=2).resolve(), members=way)
    several, tests = group(make, plan), [{"all": Test(data, OWNER)} for data in DATA]
    state = members.first_states(several)
    judged = members.evaluator(several, tests)(state)["all"]
    for number, place in ((0, PLACES[0]), (2, PLACES[2])):
        mine = jax.tree.map(lambda x, n=number: jnp.asarray(np.asarray(x)[n]), state)
        wanted = evaluate.build(make(DATA[place]).task, several.each, tests[place])(mine)["all"]
        ours = jax.tree.map(lambda x, n=number: x[n], judged)
        wanted = wanted._replace(kept={})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, wanted)


def test_data_share_a_program_where_they_are_read_alike() -> None:
    assert members.data_signature(DATA[0]) == members.data_signature(DATA[1])
    assert members.data_signature(pool(DATA[0])) == members.data_signature(pool(DATA[1]))
    assert members.data_signature(DATA[0]) != members.data_signature(images(SIZES[:-1]))
    assert members.data_signature(DATA[0]) != members.data_signature(procedural())
    assert members.data_signature(DATA[0]._replace(store=None)) is None
