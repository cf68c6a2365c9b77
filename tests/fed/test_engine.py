"""One definition, many executions: lanes x devices x kind of simulation, all equal to a plain loop over clients."""

import functools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import CASES, SIZES, classifier, images, linear, plain_round, simulation, two_players

from fedjax_mri.core import trees
from fedjax_mri.data.contract import ClientData
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state, initial_state, place_state
from fedjax_mri.fed.sampling import Population, Uniform
from fedjax_mri.fed.uplink.stages.clip import clip
from fedjax_mri.fed.uplink.weigh import uniformly
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.tasks.task import Model

ROUNDS = 3
FEWER = {
    "cyclegan": 2,  # its ReLUs have kinks: sooner or later rounding flips one sign of 50,000, and results part
    "examples clipped, drawn by coins": 2,  # of these the plain loop takes an example or a patient at a time
    "patients privately, two views of each": 2,
}
ROOT = jax.random.key(11)
UPLINKS = ("stages with state, cohort of 4", "a rule on the matrix, with state")
MIMICS = "mimics, a rule that chooses, cohort of 6"
thorough = partial(pytest.param, marks=pytest.mark.thorough)
WITHIN_OTHERS = (  # cases all of whose parts are in others too, or in which the engine meets nothing that it knows of
    "BatchNorm averaged",
    "two phases, a player at home",
    "uniform weights, clipped",
    "FedNova, a rule on the matrix",
    "fusion, heads at home",
    "cyclegan",
    "signs with feedback, cohort of 4",
)
# each plan takes seconds to compile; of three lanes on two devices neither divides the nine clients
TABLE = [
    *(thorough(case, 3, 2) if case in WITHIN_OTHERS else (case, 3, 2) for case in CASES),
    (UPLINKS[0], 1, 1),
    (UPLINKS[0], 8, 8),
]
PLACES = [
    {"data": "sharded"},
    {"data": "streamed"},
    {"clients": "host"},
    {"data": "sharded", "clients": "host"},
    {"data": "streamed", "clients": "host"},
]
PLACED = [
    *(("cohort of 4, a player at home", devices, where) for devices, where in zip((8, 2, 8, 8, 2), PLACES)),
    ("procedural, Adam, cohort of 5", 2, PLACES[2]),
    (UPLINKS[0], 2, PLACES[4]),
    thorough(UPLINKS[1], 2, PLACES[4]),
    (MIMICS, 2, PLACES[4]),
    thorough("signs with feedback, cohort of 4", 2, PLACES[4]),
]


@functools.cache
def expected(case: str) -> State:
    """Rounds of the plain loop."""
    sim = CASES[case]()
    state = jax.jit(functools.partial(init_state, sim))(ROOT)
    for _ in range(FEWER.get(case, ROUNDS)):
        state = plain_round(sim, state, ROOT)
    return state


class Built(NamedTuple):
    """A compiled segment of up to three rounds, and the state before the first one as NumPy arrays."""

    plan: Plan
    segment: segments.Segment
    first: State


def build(sim: Simulation, lanes: int, devices: int, **where: str) -> Built:
    plan = Plan(devices=devices, lanes=lanes, **where).resolve()
    return Built(plan, segments.build(sim, plan, ROOT, ROUNDS), saved(initial_state(sim, plan, ROOT)))


@functools.cache
def built(case: str, lanes: int, devices: int, **where: str) -> Built:
    return build(CASES[case](), lanes, devices, **where)


def saved(state: State) -> State:
    """NumPy arrays that nobody writes to, as a checkpoint has."""
    arrays = jax.tree.map(lambda x: np.asarray(x).copy(), state)
    for leaf in jax.tree.leaves(arrays):
        leaf.flags.writeable = False
    return arrays


def trained(program: Built, pieces: tuple[int, ...] = (ROUNDS,), first: State | None = None):
    """The engine's state, and the work of the last segment."""
    state, work = place_state(program.plan, program.first if first is None else first), None
    for rounds in pieces:
        state, work, _ = program.segment(state, rounds)
    return state, work


def assert_close(actual, wanted, tolerance: float) -> None:
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(("case", "lanes", "devices"), TABLE)
def test_equals_a_plain_loop_over_clients(case: str, lanes: int, devices: int) -> None:
    state, work = trained(built(case, lanes, devices), (FEWER.get(case, ROUNDS),))
    assert_close(state, expected(case), 3e-5)
    assert np.all(np.asarray(work.steps) <= np.asarray(work.slots))


@pytest.mark.parametrize(("case", "devices", "where"), PLACED, ids=str)
def test_it_does_not_matter_where_examples_and_client_state_lie(case: str, devices: int, where: dict) -> None:
    state, work = trained(built(case, 3, devices, **where), (1, 2))
    assert_close(state, expected(case), 3e-5)
    assert work.steps.shape == (2,) and np.all(np.asarray(work.steps) <= np.asarray(work.slots))
    assert isinstance(state.clients.rounds, np.ndarray if "clients" in where else jax.Array)


@pytest.mark.parametrize(
    ("conv", "remat", "data", "loop"),
    [
        ("direct", False, "sharded", "round"),
        ("gemm", True, "replicated", "segment"),
        thorough("xla", True, "sharded", "segment"),
        thorough("direct", True, "replicated", "segment"),
    ],
)
def test_it_does_not_matter_how_it_is_computed(conv: str, remat: bool, data: str, loop: str) -> None:
    sim = simulation(classifier(compute=Compute(conv, remat=remat)), images())
    assert_close(trained(build(sim, 3, 2, data=data, loop=loop))[0], expected("resident"), 3e-5)


def test_the_plain_loop_moves_the_model() -> None:
    before, after = built("resident", 3, 2).first, expected("resident")
    assert trees.norm(trees.subtract(before.server.model, after.server.model)) > 0.01


RESUMED = [
    *(
        (case, {})
        for case in ("BatchNorm local", "procedural, Adam, cohort of 5", "centred clipping", *UPLINKS, MIMICS)
    ),
    ("signs with feedback, cohort of 4", {}),
    ("top-k by EF21, rounded broadcasts", {}),
    ("cohort of 4, a player at home", PLACES[4]),
    ("private, adaptive bound, correlated noise", {}),
    (UPLINKS[0], PLACES[4]),
]


@pytest.mark.parametrize(("case", "where"), RESUMED)
def test_stopping_between_rounds_changes_no_bit(case: str, where: dict) -> None:
    program = built(case, 3, 2, **where)
    whole, pieces = (saved(trained(program, rounds)[0]) for rounds in ((ROUNDS,), (1, 2)))
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)


@pytest.mark.parametrize("where", [PLACES[1], PLACES[4]])
def test_a_saved_state_goes_on_in_another_place_of_memory(where: dict) -> None:
    """Saved as NumPy arrays after a round, as a checkpoint does, and taken up by another program."""
    case = "cohort of 4, a player at home"
    after = saved(trained(built(case, 3, 2), (1,))[0])
    assert_close(trained(built(case, 3, 2, **where), (2,), after)[0], trained(built(case, 3, 2))[0], 1e-6)


def test_client_state_is_written_in_place(monkeypatch) -> None:
    """Of 1,000 clients' state the program that trains two makes no copy."""
    programs, make = [], segments.compile_rounds
    monkeypatch.setattr(
        segments, "compile_rounds", lambda *given, **more: programs.append(make(*given, **more)) or programs[-1]
    )
    data = CASES["procedural, Adam, cohort of 5"]().data._replace(sizes=np.full(1000, 4, np.int32))
    sim = simulation(two_players(), data, sampler=Uniform(2).build(Population(data.sizes)))
    plan = Plan(devices=2, lanes=1).resolve()
    segments.build(sim, plan, ROOT, 3)
    state = trees.nbytes(jax.eval_shape(lambda: init_state(sim, ROOT)).clients)
    memory = programs[0].memory_analysis()
    assert memory.alias_size_in_bytes >= state
    assert memory.temp_size_in_bytes < state / 4


def test_counts_what_was_done() -> None:
    _, work = trained(built("resident", 3, 2))
    steps = 2 * np.ceil(SIZES / 4).sum()
    np.testing.assert_array_equal(work.steps, [steps] * ROUNDS)
    np.testing.assert_array_equal(work.examples, [2 * SIZES.sum()] * ROUNDS)
    np.testing.assert_array_equal(work.clients, [np.sum(SIZES > 0)] * ROUNDS)
    np.testing.assert_array_equal(work.metrics.weight, work.examples)
    longest = 2 * int(np.ceil(SIZES.max() / 4))
    np.testing.assert_array_equal(work.slots, [longest * 3 * 2] * ROUNDS)  # the largest client bounds the round


def test_a_client_without_examples_is_left_alone() -> None:
    state, _ = trained(built("BatchNorm local", 3, 2))
    empty = int(np.argmin(SIZES))
    fresh = built("BatchNorm local", 3, 2).first.clients
    jax.tree.map(np.testing.assert_array_equal, trees.take(state.clients, empty), trees.take(fresh, empty))
    np.testing.assert_array_equal(state.clients.rounds, np.where(SIZES > 0, ROUNDS, 0))


def test_a_federation_without_any_example_stays_where_it_is() -> None:
    data = images()
    sim = simulation(linear(), ClientData(np.zeros_like(data.sizes), data.store, data.read))
    program = build(sim, 3, 2)
    state, work = trained(program)
    jax.tree.map(np.testing.assert_array_equal, state.server, program.first.server)
    assert not np.any(work.slots)


def test_one_client_moves_a_clipped_sum_by_the_bound_at_most() -> None:
    """The trap: gradients summed over devices before a per-client clip move it by several times the bound."""
    bound = 0.05

    def total(sizes: np.ndarray) -> Model:
        data = images()
        sim = simulation(linear(), ClientData(sizes, data.store, data.read), (clip(bound),), uniformly)
        program = build(sim, 2, 2)
        delta = trees.subtract(saved(trained(program, (1,))[0]).server.model, program.first.server.model)
        return trees.scale(float(np.sum(sizes > 0)), delta)

    without = SIZES.copy()
    without[2] = 0
    moved = float(trees.norm(trees.subtract(total(SIZES), total(without))))
    assert 0.9 * bound < moved < 1.001 * bound


def test_a_stored_copy_of_procedural_data_gives_the_same() -> None:
    drawn = CASES["procedural, Adam, cohort of 5"]()
    every = [drawn.data.read((), jnp.int32(k), jnp.arange(n, dtype=jnp.int32)) for k, n in enumerate(SIZES) if n]
    arrays = {name: np.concatenate([batch[name] for batch in every]) for name in every[0]}
    stored = resident(arrays, np.split(np.arange(SIZES.sum()), np.cumsum(SIZES)[:-1]))
    state, _ = trained(build(drawn._replace(data=stored), 3, 2))
    assert_close(state, trained(built("procedural, Adam, cohort of 5", 3, 2))[0], 1e-6)
