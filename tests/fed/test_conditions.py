"""Who gets how much done, when a round is over, and what it costs: against sums by hand."""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, images, plain_client, simulation, two_players

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.client.local import ClientStart, step_counts
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.rounds import cohort_turnout
from fedjax_mri.fed.engine.simulation import Simulation, init_state, initial_state
from fedjax_mri.fed.sampling import Population, cohort_of
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.world.conditions import Partial, Stragglers, Turnout, ideal
from fedjax_mri.fed.world.speeds import ClientSpeeds, Speeds
from fedjax_mri.run import train
from fedjax_mri.run.line import LogEntry, flat

ROOT = jax.random.key(5)
MB = 3.0
EACH = Traffic(int(MB * 1e6), int(MB * 1e6))
FEW = np.array([5, 9, 14, 4, 3], np.int32)
EVEN = ClientSpeeds(steps_per_s=2.0, steps_sigma=0.0, mbit_up=6.0, mbit_down=24.0, mbit_sigma=0.0)  # link: 5 s for MB


@functools.cache
def rules(settings, number: int, epochs: int = 1) -> Callable:
    """The conditions of that many clients, compiled once; client k takes k + 1 steps in an epoch."""
    clients = Population(np.ones(number, np.int32), epochs=epochs, epoch_steps=np.arange(1, number + 1, dtype=np.int32))
    return jax.jit(partial(settings.build(clients), traffic=EACH))


def met(settings, steps, key: int = 0, epochs: int = 1) -> Turnout:
    """A round of clients 0..K-1 with that many local steps, as NumPy arrays."""
    steps = jnp.asarray(steps, jnp.int32)
    cohort = cohort_of(jnp.arange(len(steps), dtype=jnp.int32))
    found = rules(settings, len(steps), epochs)(jax.random.key(key), jnp.int32(0), cohort, steps)
    return jax.tree.map(np.asarray, found)


def spent(turnout: Turnout) -> list[float]:
    """Seconds, MB up, MB down, lost, cut."""
    return [float(value) for value in turnout.cost]


def test_ideal_books_what_is_sent() -> None:
    found = ideal(ROOT, jnp.int32(0), cohort_of(jnp.arange(3, dtype=jnp.int32)), jnp.array([4, 0, 2], jnp.int32), EACH)
    assert spent(found) == [0, 2 * MB, 2 * MB, 0, 0]
    np.testing.assert_array_equal(found.share, 1)


def test_a_round_lasts_as_long_as_its_slowest_client() -> None:
    found = met(Stragglers(EVEN), [4, 0, 20, 10])
    np.testing.assert_array_equal(found.steps, [4, 0, 20, 10])
    assert spent(found) == pytest.approx([5 + 20 / 2, 9, 9, 0, 0])


def test_who_is_late_is_dropped_and_waited_for() -> None:
    found = met(Stragglers(EVEN, deadline_s=10.1), [4, 0, 20, 10])
    np.testing.assert_array_equal(found.steps, [4, 0, 0, 10])
    assert spent(found) == pytest.approx([10.1, 6, 9, 1, 0])
    nobody_late = met(Stragglers(EVEN, deadline_s=10.1), [4, 0, 9])
    assert spent(nobody_late) == pytest.approx([9.5, 6, 6, 0, 0])


@pytest.mark.parametrize(("partial", "share"), [("work", [1, 0, 0.35, 1]), ("full", [1, 1, 1, 1])])
def test_who_is_late_may_send_what_is_done(partial: str, share: list[float]) -> None:
    found = met(Stragglers(EVEN, deadline_s=8.6, late="cut", partial=partial), [4, 0, 20, 7])
    np.testing.assert_array_equal(found.steps, [4, 0, 7, 7])
    np.testing.assert_allclose(found.share, share)
    assert spent(found) == pytest.approx([8.5, 9, 9, 0, 1])


@pytest.mark.parametrize("late", ["drop", "cut"])
def test_a_deadline_nobody_meets_loses_everybody(late: str) -> None:
    found = met(Stragglers(EVEN, deadline_s=5.1, late=late), [4, 0, 20])
    assert not found.steps.any()
    assert spent(found) == pytest.approx([5.1, 0, 6, 2, 0])


def test_failures_before_and_after_are_as_likely_as_said() -> None:
    """Of 4000 clients: who never began has no broadcast, who failed later has one and kept the server waiting."""
    number, slow = 4000, np.r_[np.full(3999, 2), 40]
    found = met(Stragglers(EVEN, lost_before=0.2, lost_after=0.5), slow)
    seconds, up, down, lost, cut = spent(found)
    assert abs(down / MB - 0.8 * number) < 4 * np.sqrt(number * 0.16)
    assert abs(up / MB - 0.4 * number) < 4 * np.sqrt(number * 0.24)
    assert up / MB + lost == number and cut == 0 and up / MB == np.sum(found.steps > 0)
    assert seconds in (pytest.approx(6), pytest.approx(25))
    waiting = met(Stragglers(EVEN, deadline_s=30.0, lost_before=0.2), slow)
    assert spent(waiting)[0] == pytest.approx(30)


def test_without_a_deadline_who_fails_is_waited_for_and_who_never_began_is_not() -> None:
    assert spent(met(Stragglers(EVEN, lost_after=1.0), [4, 20])) == pytest.approx([15, 0, 6, 2, 0])
    assert spent(met(Stragglers(EVEN, lost_before=1.0), [4, 20])) == pytest.approx([0, 0, 0, 2, 0])


def test_a_client_s_fate_does_not_depend_on_who_else_is_there() -> None:
    settings = Stragglers(EVEN, jitter=0.5, deadline_s=9.0, lost_before=0.3)
    meet, steps = rules(settings, 30), jnp.full(30, 8, jnp.int32)
    whole = meet(ROOT, jnp.int32(0), cohort_of(jnp.arange(30, dtype=jnp.int32)), steps).steps
    few = jnp.array([7, 3, 29], jnp.int32)
    np.testing.assert_array_equal(meet(ROOT, jnp.int32(0), cohort_of(few), steps[:3]).steps, np.asarray(whole)[few])
    assert 0 < np.sum(np.asarray(whole) == 0) < 30


def test_jitter_is_another_each_round_and_log_normal() -> None:
    settings = Stragglers(dataclasses.replace(EVEN, mbit_up=1e9, mbit_down=1e9), jitter=0.4)
    seconds = [spent(met(settings, [20], key=key))[0] for key in range(200)]
    logs = np.log(np.array(seconds) / 10)
    assert abs(logs.mean()) < 4 * 0.4 / np.sqrt(200) and abs(logs.std() - 0.4) < 4 * 0.4 / np.sqrt(400)


def test_speeds_are_log_normal_and_correlated() -> None:
    settings = ClientSpeeds(3.0, 0.5, 8.0, 40.0, 0.8, correlation=-0.6)
    speeds = Speeds(*map(np.asarray, settings.build(20_000)))
    compute, up, down = map(np.log, speeds)
    assert abs(np.median(compute) - np.log(3)) < 0.02 and abs(np.median(up) - np.log(8)) < 0.03
    np.testing.assert_allclose(down - up, np.log(5), atol=1e-5)
    np.testing.assert_allclose([compute.std(), up.std()], [0.5, 0.8], rtol=0.03)
    assert np.corrcoef(compute, up)[0, 1] == pytest.approx(-0.6, abs=0.02)
    np.testing.assert_allclose(settings.build(10).up, speeds.up[:10], rtol=1e-6)  # by two programs
    assert np.any(np.asarray(dataclasses.replace(settings, seed=1).build(10).up) != speeds.up[:10])


def test_speeds_may_come_from_a_table(tmp_path) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text("client,steps_per_s,mbit_per_s\n1,4,8\n0,2,16\n")
    found = met(Stragglers(ClientSpeeds(table=str(path))), [10, 10])
    assert spent(found)[0] == pytest.approx(max(10 / 2 + 2 * 8 * MB / 16, 10 / 4 + 2 * 8 * MB / 8))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_fedprox_s_stragglers(share: float) -> None:
    """As many as said of those at work; 1 to E - 1 whole epochs, each as likely; all others do everything."""
    epochs, each = 5, np.arange(1, 21)
    working = np.where(each % 5, epochs * each, 0)  # 16 of 20
    done = []
    for key in range(40):
        found = met(Partial(share), working, key, epochs=epochs)
        slow = found.steps < working
        assert slow.sum() == round(share * 16) == spent(found)[4]
        done += list(found.steps[slow] / each[slow])
        np.testing.assert_array_equal(found.share, 1)
        dropped = met(Partial(share, "drop"), working, key, epochs=epochs)
        np.testing.assert_array_equal(dropped.steps, np.where(slow, 0, working))
        assert spent(dropped)[3] == slow.sum()
    counts = np.unique(done, return_counts=True)
    if share:
        np.testing.assert_array_equal(counts[0], [1, 2, 3, 4])
        assert ((counts[1] - len(done) / 4) ** 2 / (len(done) / 4)).sum() < 3 + 4 * np.sqrt(6)


def test_partial_work_is_done_though_a_round_is_shorter_than_its_epochs() -> None:
    """Rounds of 3 local steps at most, of 5 epochs of 1, 2, 3 and 4 steps."""
    done = np.array([met(Partial(1.0), [3] * 4, key, epochs=5).steps for key in range(40)])
    assert [set(column.tolist()) for column in done.T] == [{1, 2, 3}, {2, 3}, {3}, {3}]


def trained(sim: Simulation, rounds: int = 2):
    plan = Plan(devices=2, lanes=2).resolve()
    state, work, _ = segments.build(sim, plan, ROOT, rounds)(initial_state(sim, plan, ROOT), rounds)
    return state, jax.tree.map(np.asarray, work)


def under(settings, sizes: np.ndarray = SIZES) -> Simulation:
    """Two players, one at home, under conditions."""
    sim = simulation(two_players(), images(sizes))
    there = Population(sizes, step_counts(sim.local, sizes), sim.local.epochs)
    return sim._replace(conditions=settings.build(there))


def test_a_round_that_everybody_misses_leaves_all_as_it_was() -> None:
    sim = under(Stragglers(EVEN, deadline_s=1e-6))
    state, work = trained(sim)
    before = initial_state(sim, Plan(devices=2).resolve(), ROOT)
    jax.tree.map(np.testing.assert_array_equal, state._replace(round=before.round), before)
    assert int(state.round) == 2 and not work.clients.any()
    figures = train.segment_figures(sim, work, seconds=1.0, waited=0.0)
    spent = figures.simulated
    assert (spent.skipped, spent.lost) == (2, 2 * np.sum(SIZES > 0))
    assert spent.seconds == pytest.approx(2e-6) and spent.up_mb == 0
    assert all(np.isfinite(value) for value in flat(LogEntry(2, {}, figures)).values())


def test_partial_work_ends_up_in_the_mean_as_it_weighs() -> None:
    """One round by hand: each client stops after its own number of steps and weighs by examples x share."""
    sim = under(Stragglers(ClientSpeeds(2.0, 0.7, seed=1), deadline_s=2.0, late="cut", lost_after=0.2), FEW)
    state, work = trained(sim, 1)
    first = init_state(sim, ROOT)
    full = step_counts(sim.local, jnp.asarray(FEW))
    turnout = cohort_turnout(sim, sim.sampler.draw(ROOT, jnp.int32(0)), full, first, ROOT)
    steps, share = np.asarray(turnout.steps), np.asarray(turnout.share)
    assert 0 < work.cost.cut[0] < np.sum(steps > 0) < len(FEW)
    total, weight = trees.zeros_like(first.server.model), 0.0
    for client in np.flatnonzero(steps):
        begun = trees.join(first.server.model, trees.take(first.clients, client).model)
        start = ClientStart(begun, first.server, ())
        model = plain_client(sim, first, start, int(client), ROOT, int(steps[client]))[0]
        learnt = trees.subtract(trees.split(sim.task.shared(model), model)[0], first.server.model)
        total = trees.add(total, trees.scale(float(FEW[client] * share[client]), learnt))
        weight += float(FEW[client] * share[client])
    wanted = trees.add(first.server.model, trees.scale(1 / weight, total))
    for found, right in zip(jax.tree.leaves(state.server.model), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, right, rtol=3e-5, atol=3e-5)


def test_who_failed_keeps_nothing_of_the_round() -> None:
    sim = under(Stragglers(EVEN, lost_after=0.5))
    state, work = trained(sim, 1)
    kept = np.asarray(state.clients.rounds)
    assert 0 < kept.sum() == work.clients[0] < np.sum(SIZES > 0)
    fresh = initial_state(sim, Plan(devices=2).resolve(), ROOT).clients
    away = np.flatnonzero(kept == 0)
    jax.tree.map(np.testing.assert_array_equal, trees.take(state.clients, away), trees.take(fresh, away))


def test_numbers_may_be_known_to_the_program_alone() -> None:
    """A deadline and a probability as arguments of one compiled program."""

    @jax.jit
    def lost(deadline: jax.Array, before: jax.Array) -> jax.Array:
        speeds = dataclasses.replace(EVEN, steps_per_s=2.0 + 0 * deadline)
        settings = Stragglers(speeds, deadline_s=deadline, lost_before=before)
        meet = settings.build(Population(np.ones(3, np.int32)))
        return meet(
            ROOT, jnp.int32(0), cohort_of(jnp.arange(3, dtype=jnp.int32)), jnp.array([4, 10, 20], jnp.int32), EACH
        )[2].lost

    lots = [(0.0, 0.0), (10.5, 0.0), (7.5, 0.0), (5.1, 0.0), (0.0, 1.0)]
    assert [int(lost(jnp.float32(a), jnp.float32(b))) for a, b in lots] == [0, 1, 2, 3, 3]


BAD = [
    (Partial(1.5), "conditions.share=1.5"),
    (Partial(), "local.epochs=1: partial work keeps whole epochs; choose 2 or more"),
    (Stragglers(lost_before=-0.1), "conditions.lost_before=-0.1"),
    (Stragglers(lost_after=float("nan")), "conditions.lost_after=nan"),
    (Stragglers(deadline_s=-1.0), "conditions.deadline_s=-1.0"),
    (Stragglers(jitter=float("inf")), "conditions.jitter=inf"),
    (Stragglers(ClientSpeeds(steps_per_s=0.0)), "speeds.steps_per_s=0.0: must be a positive, finite number"),
    (Stragglers(ClientSpeeds(mbit_up=-1.0)), "speeds.mbit_up=-1.0"),
    (Stragglers(ClientSpeeds(steps_sigma=-1.0)), "speeds.steps_sigma=-1.0"),
    (Stragglers(ClientSpeeds(correlation=2.0)), "speeds.correlation=2.0"),
    (Stragglers(ClientSpeeds(table="/nowhere.csv")), "/nowhere.csv: cannot be read"),
]


@pytest.mark.parametrize(("settings", "says"), BAD, ids=str)
def test_bad_settings_are_refused_by_name(settings, says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        settings.build(Population(SIZES))
    assert "\n" not in str(refusal.value)


HEAD = "client,steps_per_s,mbit_per_s\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEAD + "0,1,1\n", "client 1 is missing"),
        (HEAD + "0,1,1\n1,1,1\n2,1,1\n", "names 3 clients"),
        (HEAD + "0,1,1\n0,1,1\n", "names a client twice"),
        (HEAD + "0,1,1\n1,0,1\n", "line 3: speeds 0 and 1 must be above 0"),
        (HEAD + "0,1\n1,1,1\n", "line 2: must be numbers under the header"),
        ("who,fast\n0,1\n", "header client,steps_per_s,mbit_per_s"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, content: str, says: str) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=says) as refusal:
        ClientSpeeds(table=str(path)).build(2)
    assert str(path) in str(refusal.value)
