"""Schedule and shuffle: each against what it promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core import devices
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client import shuffle
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.schedule import Queues, longest_first

shuffled = jax.jit(shuffle.shuffled)


@pytest.mark.parametrize("lanes", [1, 3, 16])
@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
def test_queues_hold_each_working_client_once_and_are_short(lanes: int, sigma: float) -> None:
    rng = np.random.default_rng(0)
    steps = np.minimum(rng.lognormal(2, sigma, 200), 500).astype(np.int32) * (rng.random(200) > 0.1)
    order, start, stop = map(np.asarray, longest_first(jnp.asarray(steps), lanes))
    queues = [order[a:b] for a, b in zip(start, stop)]
    assert sorted(np.concatenate(queues)) == sorted(np.flatnonzero(steps))
    best = max(steps.sum() / lanes, steps.max())
    assert max(steps[queue].sum() for queue in queues) <= 4 / 3 * best


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_clients_with_a_home_stay_there(devices: int) -> None:
    rng = np.random.default_rng(1)
    steps, home = rng.integers(1, 50, 200).astype(np.int32), rng.integers(-1, devices, 200).astype(np.int32)
    order, start, stop = map(np.asarray, longest_first(jnp.asarray(steps), 8, jnp.asarray(home), devices))
    lane = np.empty(200, int)
    for number, (a, b) in enumerate(zip(start, stop)):
        lane[order[a:b]] = number
    assert np.all((home < 0) | (home == lane // (8 // devices)))
    assert sorted(order) == list(range(200))
    if devices == 1:
        free = longest_first(jnp.asarray(steps), 8)
        jax.tree.map(np.testing.assert_array_equal, free, Queues(order, start, stop))


def test_few_clients_go_to_different_devices() -> None:
    _, start, stop = map(np.asarray, longest_first(jnp.array([3, 5, 4, 0], jnp.int32), 8, None, 4))
    np.testing.assert_array_equal((stop - start).reshape(4, 2).sum(1), [1, 1, 1, 0])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 16, 17, 100, 1000])
def test_a_shuffle_visits_each_example_once(size: int) -> None:
    order = np.asarray(shuffled(jax.random.key(size), np.arange(size + 3, dtype=np.int32), jnp.int32(size)))
    assert sorted(order[:size]) == list(range(size))
    assert not order[size:].any()


def test_a_shuffle_is_uniform() -> None:
    """Counts of (position, example) over many keys against the chi-square law with (n - 1)^2 degrees of freedom."""
    n, draws = 7, 4000
    positions = jnp.arange(n, dtype=jnp.int32)
    several = jax.jit(lambda key: jax.vmap(lambda key: shuffled(key, positions, n))(jax.random.split(key, draws)))
    orders = several(jax.random.key(0))
    counts = np.zeros((n, n))
    np.add.at(counts, (np.tile(np.arange(n), draws), np.asarray(orders).ravel()), 1)
    statistic, freedom = ((counts - draws / n) ** 2 / (draws / n)).sum(), (n - 1) ** 2
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [0, 1, 3, 7, 57, 900])
def test_an_accelerator_has_the_same_permutation_and_asks_less_often(monkeypatch, size: int) -> None:
    positions, here = jnp.arange(size + 2, dtype=jnp.int32), devices.current()
    wanted, shuffled = jax.jit(shuffle.shuffled)(jax.random.key(size), positions, jnp.int32(size)), shuffle.shuffled
    length = dict[str, int]()
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(devices, "current", lambda platform=platform: here._replace(platform=platform))
        found = jax.jit(lambda *given: shuffled(*given))(jax.random.key(size), positions, jnp.int32(size))
        np.testing.assert_array_equal(found, wanted)
        traced = jax.make_jaxpr(lambda *given: shuffled(*given))(jax.random.key(size), positions, jnp.int32(size))
        length[platform] = len(str(traced))
    assert length["gpu"] > length["cpu"]


def test_neighbours_do_not_stay_neighbours() -> None:
    order = np.asarray(shuffled(jax.random.key(3), jnp.arange(900, dtype=jnp.int32), jnp.int32(900)))
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.02
    assert abs(np.corrcoef(np.arange(900), order)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: FedAvg(float("nan")).build(), "server_rate=nan"),
        (lambda: Plan(devices=99).resolve(), "this machine has 8"),
        (lambda: Plan(lanes=-1).resolve(), "plan.lanes=-1"),
        (lambda: Plan(memory_mb=-1).resolve(), "plan.memory_mb=-1"),
    ],
)
def test_bad_settings_are_refused_by_name(build, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build()
