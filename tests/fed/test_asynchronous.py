"""The queue of events against a loop that knows no queue, and against the law that ties its averages together."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, images, plain_client, simulation, two_players

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import ClientStart
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, init_state, initial_state
from fedjax_mri.fed.sampling import Asynchronous, Population
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.world.speeds import ClientSpeeds

SPEEDS = ClientSpeeds(steps_per_s=2.0, steps_sigma=1.0, seed=4)
A_MEGABYTE = Traffic(10**6, 10**6)
CROWD = Population(np.full(60, 8, np.int32), np.full(60, 8, np.int32), traffic=lambda: A_MEGABYTE, rounds=300)


def durations(speeds: ClientSpeeds, population: Population) -> np.ndarray:
    """Seconds of each client's training with both transfers, float64 [N]."""
    drawn = speeds.build(len(population.sizes))
    steps, up, down = (np.asarray(field, np.float64) for field in drawn)
    return 8 / down + population.steps / steps + 8 / up


@pytest.mark.parametrize("buffer", [1, 3, 7])
def test_with_everyone_in_training_the_queue_is_a_plain_loop(buffer: int) -> None:
    """No choice is left: whoever rests begins again with the next server step."""
    crowd = Population(CROWD.sizes[:7], CROWD.steps[:7], traffic=lambda: A_MEGABYTE, rounds=50)
    table = Asynchronous(buffer, 7, latest=10**6, speeds=SPEEDS).table(crowd)
    seconds, now = durations(SPEEDS, crowd), 0.0
    finish, born = seconds.copy(), np.zeros(7, int)
    for version, (clients, late, waited) in enumerate(zip(*table)):
        order = np.argsort(finish)[:buffer]
        assert sorted(clients) == sorted(order)
        np.testing.assert_array_equal(late, version - born[clients])
        np.testing.assert_allclose(waited, finish[order].max() - now, rtol=1e-4, atol=1e-5)
        now = finish[order].max()
        finish[order], born[order] = now + seconds[order], version + 1


def replayed(table, seconds: np.ndarray) -> None:
    """Each training began while its broadcast was the newest, and ended between two server steps."""
    clock = np.concatenate([[0.0], np.cumsum(table.seconds, dtype=np.float64)])
    for version, (clients, late, _) in enumerate(zip(*table)):
        begun = version - late
        assert len(set(clients)) == len(clients) and np.all(begun >= 0)
        assert np.all(clock[begun] + seconds[clients] <= clock[version + 1] + 1e-3)
        assert np.all(clock[begun + 1] + seconds[clients] >= clock[version] - 1e-3)


def test_clients_come_when_they_are_ready() -> None:
    table = Asynchronous(4, 20, latest=10**6, speeds=SPEEDS).table(CROWD)
    replayed(table, durations(SPEEDS, CROWD))
    assert table.staleness[0].max() == 0 and table.staleness.max() > 5


def test_averages_obey_little_s_law() -> None:
    """Trainings under way = arrivals a second x seconds a training, and as many are late as arrive meanwhile."""
    buffer, concurrency = 5, 30
    speeds = replace(SPEEDS, steps_sigma=0.5)
    crowd = CROWD._replace(sizes=np.full(400, 8, np.int32), steps=np.full(400, 8, np.int32), rounds=1000)
    table = Asynchronous(buffer, concurrency, latest=10**6, speeds=speeds).table(crowd)
    seconds, settled = durations(speeds, crowd), slice(50, None)
    clients = table.client[settled]
    rate = clients.size / table.seconds[settled].sum()
    assert rate * seconds[clients].mean() == pytest.approx(concurrency, rel=0.03)
    assert table.staleness[settled].mean() == pytest.approx(concurrency / buffer, rel=0.15)


def test_what_comes_too_late_is_thrown_away() -> None:
    free = Asynchronous(4, 20, latest=10**6, speeds=SPEEDS).table(CROWD)
    bound = Asynchronous(4, 20, latest=3, speeds=SPEEDS).table(CROWD)
    assert free.staleness.max() > 3 and bound.staleness.max() == 3
    assert bound.seconds.sum() > free.seconds.sum()


def test_the_table_depends_on_seeds_and_more_rounds_change_none_before() -> None:
    rules = Asynchronous(4, 20, speeds=SPEEDS, jitter=0.3)
    table = rules.table(CROWD)
    for now, then in zip(rules.table(CROWD._replace(rounds=100)), table):
        np.testing.assert_array_equal(now, then[:100])
    assert np.any(replace(rules, seed=1).table(CROWD).client != table.client)
    assert np.any(replace(rules, speeds=replace(SPEEDS, seed=5)).table(CROWD).client != table.client)


def test_the_queue_also_runs_where_a_program_is_being_traced() -> None:
    rules = Asynchronous(4, 20, speeds=SPEEDS)
    clients = jax.jit(lambda round: rules.build(CROWD).draw(jax.random.key(0), round).client)(jnp.int32(7))
    np.testing.assert_array_equal(clients, rules.table(CROWD).client[7])


def test_clients_without_examples_are_never_asked() -> None:
    sizes = np.where(np.arange(60) % 2, CROWD.sizes, 0).astype(np.int32)
    table = Asynchronous(4, 20, speeds=SPEEDS).table(CROWD._replace(sizes=sizes))
    assert np.all(table.client % 2)


def remembering(oldest: int):
    """FedAvg whose server keeps its last models, and gives each client the one it began from."""
    plain = FedAvg().build()

    def init(model):
        return plain.init(model)._replace(extra=trees.repeat(model, oldest + 1))

    def server(state, aggregate):
        moved = plain.server(state, aggregate)
        extra = jax.tree.map(lambda old, new: jnp.concatenate([new[None], old[:-1]]), state.extra, moved.model)
        return moved._replace(extra=extra)

    def broadcast(state, late):
        return state._replace(model=trees.take(state.extra, late))

    return plain._replace(init=init, server=server, broadcast=broadcast, max_staleness=oldest)


def by_hand(sim: Simulation, table, root: jax.Array):
    """The server's models after each step: each client adds what it learns from the model it began with."""
    first = init_state(sim, root)
    versions = [first.server.model]
    for number, (clients, late, _) in enumerate(zip(*table)):
        state, total = first._replace(round=jnp.int32(number)), trees.zeros_like(versions[0])
        for client, behind in zip(clients.tolist(), late.tolist()):
            start = versions[number - behind]
            kept = trees.take(first.clients, client).model
            begun = ClientStart(trees.join(start, kept), state.server, ())
            model = plain_client(sim, state, begun, client, root)[0]
            learnt = trees.subtract(trees.split(sim.task.shared(model), model)[0], start)
            total = trees.add(total, trees.scale(float(SIZES[client] / SIZES[clients].sum()), learnt))
        versions.append(trees.add(versions[-1], total))
    return versions


def test_the_engine_trains_each_client_from_the_broadcast_it_began_with() -> None:
    rules = Asynchronous(2, 4, latest=3, speeds=SPEEDS, seed=6)
    crowd, root = Population(SIZES, SIZES, rounds=3), jax.random.key(2)
    table, plan = rules.table(crowd), Plan(devices=2, lanes=2).resolve()
    assert table.staleness.max() > 0
    sim = simulation(two_players(), images(), sampler=rules.build(crowd), algorithm=remembering(3))
    state, work, _ = segments.build(sim, plan, root, 3)(initial_state(sim, plan, root), 3)
    np.testing.assert_allclose(work.cost.seconds, table.seconds)
    np.testing.assert_array_equal(work.clients, [2, 2, 2])
    wanted = by_hand(sim._replace(algorithm=FedAvg().build()), table, root)[-1]
    for found, right in zip(jax.tree.leaves(state.server.model), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, right, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (Asynchronous(buffer=0), "sampling.buffer=0: must be 1 or more"),
        (Asynchronous(latest=-1), "sampling.latest=-1"),
        (Asynchronous(jitter=float("nan")), "sampling.jitter=nan"),
        (Asynchronous(buffer=61), "sampling.buffer=61: 60 clients have examples"),
        (Asynchronous(concurrency=100), "sampling.concurrency=100: 60 clients have examples; choose 1 to 60"),
        (Asynchronous(4, 20, speeds=ClientSpeeds(steps_per_s=0.0)), "speeds.steps_per_s=0.0"),
    ],
)
def test_bad_settings_are_refused_by_name(rules: Asynchronous, says: str) -> None:
    with pytest.raises(UserError, match=says):
        rules.build(CROWD)
