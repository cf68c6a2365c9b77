"""Statistics, which change without a gradient, go to the mean of the clients' statistics under every algorithm."""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from described import described
from flax import nnx
from quadratics import ROOT, SIZES, some_late_some_twice, with_algorithm
from simulations import images, plain_client, plain_round, simulation

from fedjax_mri.core import keys, trees
from fedjax_mri.fed.algorithm import Algorithm, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.algorithms.serveroptimizer import FedAvgM, ServerOptimizer
from fedjax_mri.fed.client.local import ClientStart
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state, initial_state
from fedjax_mri.fed.sampling import Sampler
from fedjax_mri.fed.uplink.reductions.mean import mean
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.stages.clip import clip
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import NormKind
from fedjax_mri.run import parts
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.task import Task

PLAN = Plan(devices=1, lanes=2).resolve()


class Normed(nnx.Module):
    """A norm of the image, and logits: the smallest network with statistics."""

    def __init__(self, layers: Layers) -> None:
        self.norm, self.logits = layers.norm(1), layers.linear(64, 3)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        return self.logits(self.norm(x, present, train).reshape(x.shape[0], -1))


@dataclasses.dataclass(frozen=True)
class NormedSettings:
    """The network as a user would give it."""

    norm: NormKind

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        return functional(Normed, compute, self.norm)


@functools.cache  # and with it what the plain loop compiles
def task(norm: NormKind) -> Task:
    return Classify(network=NormedSettings(norm)).build(described((8, 8, 1), 3), Compute())


def federation(settings, norm: NormKind = "batch", **changes: object) -> Simulation:
    """Six clients of 0 to 9 images; cohorts of four, some late and some drawn twice."""
    sampler = Sampler(some_late_some_twice, "other", 4 / 6)
    return with_algorithm(settings, simulation(task(norm), images(SIZES), sampler=sampler, **changes))


class Sent(NamedTuple):
    """What the clients of a round have: their statistics by name, and their weights."""

    statistics: list[dict[str, np.ndarray]]
    weights: np.ndarray

    def mean(self) -> dict[str, np.ndarray]:
        each = {name: [one[name] for one in self.statistics] for name in self.statistics[0]}
        return {name: np.average(np.stack(values), 0, self.weights) for name, values in each.items()}


def trained_apart(sim: Simulation, state: State) -> Sent:
    """The statistics of each client of a round, trained in a plain loop, and examples times draws."""
    key = keys.purpose(jax.random.fold_in(ROOT, state.round), keys.Purpose.SAMPLE)
    cohort, found, weights = sim.sampler.draw(key, state.round), [], []
    for place, client in enumerate(np.asarray(cohort.client)):
        if sim.data.sizes[client]:
            row = trees.take(state.clients, client)
            server = sim.algorithm.broadcast(state.server, cohort.staleness[place])
            start = ClientStart(trees.join(server.model, row.model), server, row.state)
            model = plain_client(sim, state, start, int(client), ROOT)[0]
            found.append(named(trees.split(sim.task.shared(model), model)[0].carry))
            weights.append(sim.data.sizes[client] * float(cohort.times[place]))
    return Sent(found, np.array(weights))


def named(carry) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float64) for name, leaf in trees.named(carry).items()}


def rounds(sim: Simulation, count: int) -> list[State]:
    """The states before the first round and after each."""
    segment, found = segments.build(sim, PLAN, ROOT, 1), [init_state(sim, ROOT)]
    state = initial_state(sim, PLAN, ROOT)
    for _ in range(count):
        state = segment(state, 1)[0]
        found.append(jax.tree.map(lambda x: jnp.asarray(np.asarray(x).copy()), state))
    return found


def plain_rounds(sim: Simulation, count: int) -> list[State]:
    """The same by the plain loop."""
    found = [init_state(sim, ROOT)]
    for _ in range(count):
        found.append(plain_round(sim, found[-1], ROOT))
    return found


@functools.cache
def plainly_averaged() -> State:
    """The state after a round of FedAvg."""
    return plain_rounds(federation(FedAvg()), 1)[1]


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


KINDS = parts.settings("algorithm")
RATES = {"server_rate": 1.5, "rate": 1.5}  # by the name of the field
FAST = {  # faster servers, where there is something to set
    f"{name}, {field} {RATES[field]}": dataclasses.replace(kind(), **{field: RATES[field]})
    for name, kind in KINDS.items()
    for field in RATES
    if field in {one.name for one in dataclasses.fields(kind)}
}
USUAL = {name: kind() for name, kind in KINDS.items() if not any(one.startswith(f"{name},") for one in FAST)}
OTHERS = {"scaffold I": Scaffold("I", server_rate=1.5), "adam": ServerOptimizer("optax.adam", 1.5)}
ALGORITHMS = {**USUAL, **FAST, **OTHERS}
COMPILED = ("fedavg, server_rate 1.5", "scaffold, server_rate 1.5", "oneshot")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_server_s_statistics_are_the_weighted_mean_of_the_clients(name: str) -> None:
    """Against NumPy, in two rounds, and variances stay positive.

    By the plain loop, which the engine equals under each algorithm (`test_algorithms.py`); here under some.
    """
    sim = federation(ALGORITHMS[name])
    first, second, third = (rounds if name in COMPILED else plain_rounds)(sim, 2)
    sent = [trained_apart(sim, state) for state in (first, second)]
    for one, after in zip(sent, (second, third)):
        if name == "oneshot" and after is third:  # its server's model is the mean of all models sent so far
            one = Sent([*sent[0].statistics, *sent[1].statistics], np.concatenate([s.weights for s in sent]))
        found = named(after.server.model.carry)
        assert_equal(found, one.mean() if one.statistics[0] else {})
        assert all((value > 0).all() for name, value in found.items() if name.endswith("var"))
    wanted = plain_round(sim, second, ROOT) if name in COMPILED else third
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(third), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=3e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("fedavg, server_rate 1.5", "none"),
        pytest.param("scaffold, server_rate 1.5", "group", marks=pytest.mark.thorough),
    ],
)
def test_without_statistics_nothing_but_parameters_travels(name: str, norm: NormKind) -> None:
    sim = federation(ALGORITHMS[name], norm)
    before, after = rounds(sim, 1)
    assert not jax.tree.leaves(after.server.model.carry)
    wanted = plain_round(sim, before, ROOT)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=3e-5), after.server.model, wanted.server.model
    )


@pytest.mark.parametrize("settings", [FedAvg(1.5), FedAvgM(1.5)], ids=str)
def test_what_the_fast_server_does_to_parameters_it_does(settings) -> None:
    """The parameters move by the rate: the mean is of statistics alone."""
    before, after = plain_rounds(federation(settings), 1)
    plain = plainly_averaged()
    step, usual = (trees.subtract(one.server.model.params, before.server.model.params) for one in (after, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 1.5 * b, rtol=1e-4, atol=1e-6), step, usual)


class Careless:
    """An algorithm of a user who treats the whole model as parameters: momentum, a rate, weight decay, old models."""

    def build(self) -> Algorithm:
        def finish(server, client, result):
            update = FedAvg().build().finish(server, client, result)
            return update._replace(delta=trees.scale(3.0, update.delta))

        def server(server, aggregate):
            momentum = trees.add(trees.scale(0.9, server.extra["momentum"]), aggregate.delta)
            model = trees.add(trees.scale(0.99, server.model), trees.scale(2.0, momentum))
            return ServerState(model, {"momentum": momentum, "before": server.model})

        extra = lambda model: {"momentum": trees.zeros_like(model), "before": model}  # noqa: E731
        return FedAvg().build()._replace(init=lambda m: ServerState(m, extra(m)), finish=finish, server=server)


def test_an_algorithm_that_treats_statistics_as_parameters_does_them_no_harm() -> None:
    sim = federation(Careless())
    states = plain_rounds(sim, 3)
    for before, after in itertools.pairwise(states):
        assert_equal(named(after.server.model.carry), trained_apart(sim, before).mean())


def clipped_apart(sim: Simulation, state: State, bound: float) -> dict[str, np.ndarray]:
    """The mean of statistics of which each is drawn towards the server's by the factor of its client's clip."""
    key = keys.purpose(jax.random.fold_in(ROOT, state.round), keys.Purpose.SAMPLE)
    cohort, sent, total = sim.sampler.draw(key, state.round), [], trained_apart(sim, state)
    for client in np.asarray(cohort.client):
        if sim.data.sizes[client]:
            start = ClientStart(state.server.model, state.server, ())
            model = plain_client(sim, state, start, int(client), ROOT)[0]
            gone = trees.subtract(model, state.server.model)
            factor = min(1.0, bound / float(trees.norm(gone)))
            sent.append(named(trees.add(state.server.model.carry, trees.scale(factor, gone.carry))))
    return Sent(sent, total.weights).mean()


def test_a_clipped_update_s_statistics_lie_between_the_client_s_and_the_server_s() -> None:
    bound = 0.2
    sim = federation(FedAvg(1.5), uplink=None)
    sim = sim._replace(uplink=simulation(sim.task, sim.data, (clip(bound),)).uplink)
    before, after = rounds(sim, 1)
    found, free = named(after.server.model.carry), trained_apart(sim, before).mean()
    assert_equal(found, clipped_apart(sim, before, bound))
    assert all(abs(found[name] - free[name]).max() > 0.01 for name in free)


def test_a_cohort_above_the_expected_weight_moves_statistics_to_the_mean_and_no_further() -> None:
    """With the expected divisor parameters move by more than the mean where more came than expected."""
    sim = federation(FedAvg())
    sim = sim._replace(
        uplink=simulation(sim.task, sim.data, reduce=mean("expected")).uplink, sampler=sim.sampler._replace(rate=0.2)
    )
    before, after = rounds(sim, 1)
    assert_equal(named(after.server.model.carry), trained_apart(sim, before).mean())
    plain = plainly_averaged()
    moved, usual = (
        float(trees.norm(trees.subtract(one.server.model.params, before.server.model.params))) for one in (after, plain)
    )
    assert moved > 2 * usual


def test_the_median_of_statistics_is_that_of_what_was_sent() -> None:
    sim = federation(FedAvg(1.5))
    sim = sim._replace(uplink=simulation(sim.task, sim.data, reduce=Median().build()).uplink)
    before, after = rounds(sim, 1)
    each = trained_apart(sim, before).statistics
    assert_equal(named(after.server.model.carry), {name: np.median([e[name] for e in each], 0) for name in each[0]})
