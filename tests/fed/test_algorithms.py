"""Each algorithm against closed forms on quadratics, its limits, and a plain loop; then all that comes after rounds."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratics
from simulations import SIZES, plain_client, plain_round, simulation

from fedjax_mri import experiment, parts, runfolder, trees
from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.client_data import Federation, Test
from fedjax_mri.errors import UserError
from fedjax_mri.fed import engine, evaluate, finetune, oneshot, segments, uplink
from fedjax_mri.fed.algorithm import traffic
from fedjax_mri.fed.algorithms.ditto import Ditto
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedbn import FedBN
from fedjax_mri.fed.algorithms.fedbuff import FedBuff
from fedjax_mri.fed.algorithms.feddyn import FedDyn
from fedjax_mri.fed.algorithms.fednova import FedNova
from fedjax_mri.fed.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedjax_mri.fed.algorithms.fedper import FedPer
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.algorithms.fedrep import FedRep
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.fed.algorithms.oneshot import OneShot
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.algorithms.serveroptimizer import FedAvgM, ServerOptimizer
from fedjax_mri.fed.local import Local, Start
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Everyone, Uniform, of
from fedjax_mri.fed.uplink import Aggregate
from fedjax_mri.tasks.task import Model

ROOT = jax.random.key(3)
RATE = 0.1
ALONE = Plan(devices=1, lanes=2).resolve()
QUADRATIC = quadratics.task()


def with_algorithm(settings, sim: engine.Simulation) -> engine.Simulation:
    algorithm = settings.build()
    return sim._replace(algorithm=algorithm, task=algorithm.task(sim.task))


def sgd(epochs: int, batch: int, momentum: float | None = None) -> Local:
    return Local(epochs, batch, lambda rate: optax.sgd(rate, momentum), lambda round: jnp.float32(RATE))


def run(sim: engine.Simulation, rounds: int, plan: Plan = ALONE) -> engine.State:
    return segments.build(sim, plan, ROOT, rounds)(engine.first(sim, plan, ROOT), rounds)[0]


# ---- every algorithm, lanes x devices, ragged clients, a part of them, some late, some twice


def some_late_some_twice(key: jax.Array, round: jax.Array):
    client = Uniform(6).build(len(SIZES))(key, round).client
    return of(client, times=1.0 + (client % 2).astype(jnp.float32), late=client % 3)


def ragged(settings) -> engine.Simulation:
    """Nine clients of 0 to 17 examples, no two alike, batches of 4."""
    A, b = quadratics.matrices(SIZES.sum())
    b += np.repeat(np.arange(len(SIZES)), SIZES)[:, None] / 5
    momentum = getattr(settings, "momentum", 0.0) if isinstance(settings, FedNova) else None
    sim = simulation(QUADRATIC, quadratics.data(A, b, SIZES), local=sgd(2, 4, momentum), sample=some_late_some_twice)
    return with_algorithm(settings, sim)


VARIANTS = {name: kind() for name, kind in parts.settings("algorithm").items()} | {
    "scaffold I": Scaffold("I"),
    "fednova, momentum": FedNova(momentum=0.9),
    "fedper of scaffold": FedPer(base=Scaffold()),
    "serveroptimizer, adam": ServerOptimizer("optax.adam", 0.1),
}


@functools.cache
def expected(name: str) -> engine.State:
    sim = ragged(VARIANTS[name])
    state = engine.init(sim, ROOT)
    for _ in range(3):
        state = plain_round(sim, state, ROOT)
    return state


@pytest.mark.parametrize(("lanes", "devices"), [(3, 1), (2, 8)])
@pytest.mark.parametrize("name", VARIANTS)
def test_each_equals_a_plain_loop_and_resumes_to_the_bit(name: str, lanes: int, devices: int) -> None:
    sim, plan = ragged(VARIANTS[name]), Plan(devices=devices, lanes=lanes).resolve()
    rounds = segments.build(sim, plan, ROOT, 3)
    whole = jax.tree.map(np.asarray, rounds(engine.first(sim, plan, ROOT), 3)[0])
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(expected(name)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=3e-5, err_msg=jax.tree_util.keystr(path))
    saved = jax.tree.map(lambda x: np.asarray(x).copy(), rounds(engine.first(sim, plan, ROOT), 1)[0])
    jax.tree.map(np.testing.assert_array_equal, rounds(engine.settle(plan, saved), 2)[0], whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_moves_the_model_it_judges(name: str) -> None:
    sim = ragged(VARIANTS[name])
    model = lambda state: trees.join(state.server.model, trees.take(state.clients.model, 2))  # noqa: E731
    before, after = model(engine.init(sim, ROOT)), model(expected(name))
    assert trees.norm(trees.subtract(after.params, before.params)) > 0.01


# ---- fixed points


UNEQUAL = np.array([1, 2, 3, 6])
EPOCHS = 5
A, B = quadratics.matrices(len(UNEQUAL), 1)
P = UNEQUAL / UNEQUAL.sum()


def optimum(p: np.ndarray = P) -> np.ndarray:
    return np.linalg.solve(np.einsum("k,kij->ij", p, A), np.einsum("k,kij,kj->i", p, A, B))


def balance(p: np.ndarray, M: np.ndarray) -> np.ndarray:
    """Where sum p_k M_k (b_k - x) = 0, if M_k (b_k - x) is what client k moves from x."""
    return np.linalg.solve(np.einsum("k,kij->ij", p, M), np.einsum("k,kij,kj->i", p, M, B))


def left(steps: int, mu: float = 0.0, rate: float = RATE) -> np.ndarray:
    """(I - rate (A_k + mu I))^steps, [K, D, D]: what is left of a gap after so many steps."""
    return np.stack([np.linalg.matrix_power(np.eye(len(a)) - rate * (a + mu * np.eye(len(a))), steps) for a in A])


def four(settings, batch: int = 6, cohort: int = 4, stages: tuple = (uplink.by_examples(),)) -> engine.Simulation:
    """Four clients of 1, 2, 3, 6 examples that are all the same: each step is down the client's whole gradient."""
    clients = quadratics.data(np.repeat(A, UNEQUAL, 0), np.repeat(B, UNEQUAL, 0), UNEQUAL)
    sample = Everyone().build(4) if cohort == 4 else Uniform(cohort).build(4)
    sim = simulation(QUADRATIC, clients, stages, local=sgd(EPOCHS, batch), sample=sample)
    return with_algorithm(settings, sim)


def reached(sim: engine.Simulation, rounds: int = 400) -> np.ndarray:
    return np.asarray(quadratics.together(run(sim, rounds).server.model.params))


def test_fedavg_comes_to_its_biased_fixed_point() -> None:
    biased = balance(P, np.eye(quadratics.D) - left(EPOCHS))
    assert np.linalg.norm(biased - optimum()) > 0.02
    np.testing.assert_allclose(reached(four(FedAvg())), biased, atol=1e-5)


def test_fedprox_comes_to_its_own() -> None:
    mu, eye = 1.0, np.eye(quadratics.D)
    towards = np.stack([np.linalg.solve(a + mu * eye, a) for a in A])  # (A + mu I)^-1 A: h_k's minimiser, from x
    biased = balance(P, (eye - left(EPOCHS, mu)) @ towards)
    np.testing.assert_allclose(reached(four(FedProx(mu))), biased, atol=1e-5)
    assert np.linalg.norm(biased - optimum()) < np.linalg.norm(balance(P, eye - left(EPOCHS)) - optimum())


UNBIASED = {
    "scaffold II": (Scaffold(), {}),
    "scaffold I": (Scaffold("I", look=1 / EPOCHS), {}),
    "scaffold, unequal steps": (Scaffold(), {"batch": 1}),
    "scaffold, two of four": (Scaffold(), {"cohort": 2}),
    "feddyn": (FedDyn(1.0), {}),
    "feddyn, two of four": (FedDyn(1.0), {"cohort": 2}),
}


@pytest.mark.parametrize("weights", ["examples", "uniform"])
@pytest.mark.parametrize("case", UNBIASED)
def test_scaffold_and_feddyn_reach_the_optimum(case: str, weights: str) -> None:
    settings, how = UNBIASED[case]
    stages, p = (uplink.by_examples(), P) if weights == "examples" else (uplink.uniformly(), np.full(4, 0.25))
    np.testing.assert_allclose(reached(four(settings, stages=(stages,), **how), 1500), optimum(p), atol=2e-5)


def test_fednova_corrects_unequal_steps() -> None:
    """With batches of one a client takes 5 to 30 steps: the bias of FedAvg is one of weights, FedNova's of drift."""
    steps = EPOCHS * UNEQUAL
    M = np.eye(quadratics.D) - np.stack([left(n)[k] for k, n in enumerate(steps)])
    avg, nova = balance(P, M), balance(P, M / steps[:, None, None])
    np.testing.assert_allclose(reached(four(FedAvg(), batch=1)), avg, atol=1e-5)
    np.testing.assert_allclose(reached(four(FedNova(server_rate=0.3), batch=1)), nova, atol=1e-5)
    little = np.eye(quadratics.D) - np.stack([left(n, rate=1e-5)[k] for k, n in enumerate(steps)])
    assert np.linalg.norm(balance(P, little) - optimum()) > 0.1
    assert np.linalg.norm(balance(P, little / steps[:, None, None]) - optimum()) < 1e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_s_norm_is_what_steps_of_ones_add_up_to(momentum: float) -> None:
    """A gradient of one at each step moves SGD by rate x |a|_1."""
    from fedjax_mri.fed.algorithms.fednova import accumulated

    x, v = 0.0, 0.0
    for _ in range(7):
        v = momentum * v + 1.0
        x += v
    np.testing.assert_allclose(accumulated(jnp.int32(7), momentum), x, rtol=1e-6)


# ---- limits


@functools.cache
def three_rounds(settings) -> engine.State:
    return run(four(settings, batch=2, cohort=3), 3)


SAME = [FedProx(0.0), ServerOptimizer("optax.sgd", 1.0), FedAvgM(1.0, 0.0), FedBuff()]


@pytest.mark.parametrize("settings", SAME, ids=str)
def test_limits_are_fedavg(settings) -> None:
    ours, theirs = three_rounds(settings).server.model, three_rounds(FedAvg()).server.model
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)


def test_fednova_of_equal_steps_is_fedavg() -> None:
    ours, theirs = (run(four(settings), 3).server.model for settings in (FedNova(), FedAvg()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_ditto_without_a_pull_is_local_training_beside_fedavg() -> None:
    ditto, alone, average = (three_rounds(one) for one in (Ditto(0.0), LocalOnly(), FedAvg()))
    personal = jax.tree.map(lambda x: np.asarray(x), ditto.clients.model)
    for field in ("params", "carry"):
        own, local = getattr(personal, field)["personal"], getattr(alone.clients.model, field)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), own, local)
        ours, theirs = getattr(ditto.server.model, field)["shared"], getattr(average.server.model, field)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)


def test_ditto_s_personal_models_come_to_rest_between_both() -> None:
    """At the fixed point (A_k + lambda I) v_k = A_k b_k + lambda w."""
    state, eye = run(four(Ditto(0.5)), 400), np.eye(quadratics.D)
    w = np.asarray(quadratics.together(state.server.model.params["shared"]))
    np.testing.assert_allclose(w, balance(P, eye - left(EPOCHS)), atol=1e-5)
    for k in range(4):
        personal = quadratics.together(trees.take(state.clients.model.params["personal"], k))
        np.testing.assert_allclose(personal, np.linalg.solve(A[k] + 0.5 * eye, A[k] @ B[k] + 0.5 * w), atol=1e-5)


# ---- what they keep


def weights(sim: engine.Simulation) -> np.ndarray:
    return np.asarray(sim.data.sizes, np.float64) / sim.data.sizes.sum()


@pytest.mark.parametrize("settings", [Scaffold(), Scaffold("I"), FedDyn(0.3)], ids=str)
def test_the_server_s_sum_is_that_of_its_clients(settings) -> None:
    """c = sum p_k c_k and h = sum p_k g_k, after cohorts of six of nine of whom some counted twice."""
    sim = ragged(settings)
    state = run(sim, 7)
    total = jax.tree.map(lambda c: np.tensordot(weights(sim), np.asarray(c, np.float64), 1), state.clients.state)
    assert trees.norm(total) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), state.server.extra, total)


def test_scaffold_s_second_option_is_the_paper_s_formula() -> None:
    sim = ragged(Scaffold())
    before, after = (run(sim, rounds) for rounds in (2, 3))
    client = int(np.asarray(some_late_some_twice(sampling_key(2), jnp.int32(2)).client)[0])
    assert SIZES[client]
    kept = trees.take(before.clients, client)
    start = Start(trees.join(before.server.model, kept.model), before.server, kept.state)
    model, steps, _ = plain_client(sim, before, start, client, ROOT)
    gone = trees.scale(1 / (steps * RATE), trees.subtract(start.model.params, model.params))
    wanted = trees.add(trees.subtract(kept.state, before.server.extra), gone)
    new = trees.take(after.clients.state, client)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), new, wanted)


def sampling_key(round: int) -> jax.Array:
    from fedjax_mri import keys

    return keys.purpose(jax.random.fold_in(ROOT, round), keys.Purpose.SAMPLE)


def test_scaffold_s_first_option_is_the_gradient_at_the_server_s_model() -> None:
    """Of two epochs one looks: over all 17 examples, the last batch holding one."""
    sim = ragged(Scaffold("I"))._replace(sample=Everyone().build(len(SIZES)))
    x = np.asarray(quadratics.together(engine.init(sim, ROOT).server.model.params), np.float64)
    fields, rows = sim.data.store.fields, np.repeat(np.arange(len(SIZES)), SIZES) == 2
    gradient = np.einsum("nij,nj->ni", fields["A"][rows].astype(np.float64), x - fields["b"][rows]).mean(0)
    control = quadratics.together(trees.take(run(sim, 1).clients.state, 2))
    np.testing.assert_allclose(control, gradient, rtol=1e-5, atol=1e-5)


# ---- the server's optimisers


def by_hand(settings, deltas: np.ndarray) -> np.ndarray:
    """Algorithm 2 of Reddi et al. 2021, or FedAvgM, on x = 0; deltas float64 [rounds, D]."""
    x, m, v = np.zeros(deltas.shape[1]), np.zeros(deltas.shape[1]), 0.0
    if isinstance(settings, FedAvgM):
        for d in deltas:
            m = settings.momentum * m + d
            x = x + settings.rate * m
        return x
    v = np.full(deltas.shape[1], settings.tau**2)
    for d in deltas:
        m = settings.beta1 * m + (1 - settings.beta1) * d
        if isinstance(settings, FedAdagrad):
            v = v + d**2
        elif isinstance(settings, FedYogi):
            v = v - (1 - settings.beta2) * d**2 * np.sign(v - d**2)
        else:
            v = settings.beta2 * v + (1 - settings.beta2) * d**2
        x = x + settings.rate * m / (np.sqrt(v) + settings.tau)
    return x


SERVERS = [FedAvgM(0.7, 0.9), FedAdagrad(0.1, 0.3, 0.01), FedAdam(0.1, 0.9, 0.97, 0.01), FedYogi(0.1, 0.9, 0.97, 0.01)]


@pytest.mark.parametrize("settings", SERVERS, ids=str)
def test_server_optimisers_equal_a_loop_in_float64(settings) -> None:
    deltas = np.random.default_rng(0).normal(size=(20, 5)) * 0.1
    algorithm = settings.build()
    state = algorithm.init(Model({"x": jnp.zeros(5)}, {"statistic": jnp.zeros(2)}))
    one = jnp.float32(1)
    for delta in deltas:
        mean = Model({"x": jnp.asarray(delta, jnp.float32)}, {"statistic": jnp.full(2, 0.5)})
        state = algorithm.server(state, Aggregate(mean, one, one, one))
    np.testing.assert_allclose(state.model.params["x"], by_hand(settings, deltas), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.model.carry["statistic"], 10.0)  # statistics go to their mean, undistorted


# ---- late updates


def test_fedbuff_measures_late_clients_against_what_they_were_sent() -> None:
    """All four clients each round, client k being k steps late, against a loop that keeps every model."""
    rounds, late = 6, np.arange(4)
    sample = lambda key, round: of(jnp.arange(4, dtype=jnp.int32), late=jnp.arange(4, dtype=jnp.int32))  # noqa: E731
    sim = four(FedBuff(power=0.5, oldest=2))._replace(sample=sample)
    models = [np.asarray(quadratics.together(engine.init(sim, ROOT).server.model.params), np.float64)]
    M = np.eye(quadratics.D) - left(EPOCHS)
    for t in range(rounds):
        started = [models[max(0, t - min(one, 2))] for one in late]  # one older than the oldest gets that
        moves = [(1 + one) ** -0.5 * M[k] @ (B[k] - started[k]) for k, one in enumerate(late)]
        models.append(models[-1] + np.einsum("k,ki->i", P, moves))
    np.testing.assert_allclose(reached(sim, rounds), models[-1], rtol=1e-4, atol=1e-5)


# ---- parts that stay at home


def test_what_matches_stays_and_the_rest_travels() -> None:
    for settings, own in ((FedBN(), {"norm"}), (FedPer(), {"logits"}), (FedRep(), {"logits"})):
        state = run(four(settings), 2)
        assert {name for name, leaf in state.server.model.params.items() if leaf is None} == own
        assert (state.server.model.carry["norm"] is None) == (own == {"norm"})
        (leaf,) = (state.clients.model.params[name] for name in own)
        assert len(np.unique(np.asarray(leaf)[:, 0])) == 4


def test_fedrep_trains_the_head_and_then_the_body() -> None:
    """Two steps: the first moves the head alone, the second the rest, seeing the new head."""
    sim = four(FedRep())
    sim = sim._replace(local=sgd(2, 6))
    head = np.arange(quadratics.D) >= quadratics.D - 1
    x = np.asarray(quadratics.together(engine.init(four(FedAvg()), ROOT).server.model.params), np.float64)
    ends = []
    for k in range(4):
        y = np.where(head, x - RATE * A[k] @ (x - B[k]), x)
        ends.append(np.where(head, y, y - RATE * A[k] @ (y - B[k])))
    state = run(sim, 1)
    np.testing.assert_allclose(state.clients.model.params["logits"][:, 0], np.array(ends)[:, -1], rtol=1e-5, atol=1e-6)
    body = np.concatenate([state.server.model.params["body"], state.server.model.params["norm"]])
    np.testing.assert_allclose(body, (P @ np.array(ends))[:-1], rtol=1e-5, atol=1e-6)


def test_a_pattern_that_matches_nothing_is_named_with_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"algorithm.head: 'heads' matches nothing; there are params/body, .*carry/norm"
    ):
        four(FedPer(head=("logits", "heads")))


# ---- judged


def noise(count: int, clients: int) -> Test:
    a, b = quadratics.matrices(count * clients, 9)
    return Test(quadratics.data(a, b, np.full(clients, count)), np.arange(clients, dtype=np.int32))


def chances(model: Model, test: Test, client: int) -> np.ndarray:
    batch = test.data.read(test.data.store, jnp.int32(client), jnp.arange(test.data.sizes[client], dtype=jnp.int32))
    return np.asarray(QUADRATIC.predict(model.params, model.carry, batch))


def test_ditto_is_judged_by_personal_models_and_elsewhere_by_the_shared_one() -> None:
    sim, state, test = four(Ditto(0.1)), three_rounds(Ditto(0.1)), noise(3, 4)
    test = test._replace(owner=np.array([2, -1, 0, -1], np.int32))
    found = evaluate.build(sim.task, ALONE, {"": test})(state)[""].predictions.reshape(4, 3, -1)
    for client, owner in enumerate(test.owner):
        kept, shared = state.clients.model.params["personal"], state.server.model.params["shared"]
        model = Model(shared if owner < 0 else trees.take(kept, int(owner)), {})
        np.testing.assert_allclose(found[client], chances(model, test, client), rtol=1e-4, atol=1e-6)


def test_an_ensemble_predicts_the_mean_of_its_members() -> None:
    sim, state, test = four(OneShot(), cohort=3), run(four(OneShot(), cohort=3), 1), noise(5, 2)
    (judged,) = oneshot.judge(sim, ALONE, {"": test}, state).values()
    trained = np.flatnonzero(np.asarray(state.clients.rounds))
    assert len(trained) == 3
    members = [trees.take(state.clients.state, int(k)) for k in trained]
    wanted = np.concatenate([np.mean([chances(one, test, k) for one in members], 0) for k in range(2)])
    np.testing.assert_allclose(judged.predictions, wanted, rtol=1e-4, atol=1e-6)
    nll = -np.log(wanted[np.arange(10), np.asarray(judged.labels)])
    np.testing.assert_allclose(judged.metrics.nll, nll.reshape(2, 5).sum(1), rtol=1e-4)


def test_one_shot_clients_start_from_the_first_model_in_every_round() -> None:
    """The server's model is the mean, weighted, of all it has been sent; each is where FedAvg's first round ends."""
    sim = four(OneShot(), cohort=2)
    state = run(sim, 5)
    x = np.asarray(quadratics.together(engine.init(sim, ROOT).server.model.params), np.float64)
    ends = x + np.einsum("kij,kj->ki", np.eye(quadratics.D) - left(EPOCHS), B - x)
    sent = np.concatenate([np.asarray(engine.drawn(sim, ROOT, jnp.int32(round)).client) for round in range(5)])
    mean = np.average(ends[sent], axis=0, weights=UNEQUAL[sent])
    np.testing.assert_allclose(quadratics.together(state.server.model.params), mean, rtol=1e-4, atol=1e-5)


def test_a_student_learns_what_the_ensemble_predicts() -> None:
    sim, images = four(OneShot()), noise(8, 5).data
    state = run(sim, 1)
    settings = oneshot.Distil(source="any", epochs=60, batch=8, learning_rate=0.03)
    student = oneshot.distilled(sim, ALONE, settings, images, state, ROOT)
    test = Test(images, np.full(5, -1, np.int32))
    (taught,) = oneshot.judge(sim, ALONE, {"": test}, state).values()

    def distance(state: engine.State) -> float:
        found = evaluate.build(sim.task, ALONE, {"": test})(state)[""].predictions
        return float(np.mean(np.sum(taught.predictions * np.log(taught.predictions / found), -1)))

    assert distance(student) < 0.1 * distance(engine.init(sim, ROOT))
    assert distance(student) < distance(state)  # closer than the mean of models
    jax.tree.map(np.testing.assert_array_equal, student.clients, state.clients)


@pytest.mark.parametrize("where", ["device", "host"])
def test_fine_tuning_equals_a_plain_loop(where: str) -> None:
    """Two epochs from the server's model on the owner's examples, by clients 4, 2 and one without any."""
    sim = ragged(FedPer())
    state, plan = run(sim, 2), dataclasses.replace(ALONE, clients=where)
    owner = np.array([4, 1, 2, 2], np.int32)
    test = noise(3, 4)._replace(owner=owner)
    (judged,) = finetune.judge(sim, plan, {"a": test}, 2, engine.settle(plan, state), ROOT).values()
    found = judged.predictions.reshape(4, 3, -1)
    sub = finetune.among(sim, np.array([1, 2, 4]), 2)
    for client, one in enumerate(owner):
        model = trees.join(state.server.model, trees.take(state.clients.model, int(one)))
        start = Start(model, engine.ServerState(Model({}, {}), ()), ())
        if SIZES[one]:
            model = plain_client(sub, state, start, {2: 1, 4: 2}[int(one)], ROOT)[0]
        np.testing.assert_allclose(found[client], chances(model, test, client), rtol=1e-3, atol=1e-5)


def test_sites_without_an_owner_are_not_fine_tuned() -> None:
    sim = four(FedAvg())
    elsewhere = noise(3, 2)._replace(owner=np.array([-1, 1], np.int32))
    assert finetune.judge(sim, ALONE, {"b": elsewhere}, 1, engine.init(sim, ROOT), ROOT) == {}


# ---- settings and documentation


BAD = [
    (FedProx(-1.0), "algorithm.mu=-1.0"),
    (FedProx(float("nan")), "algorithm.mu=nan"),
    (FedDyn(0.0), "algorithm.alpha=0.0"),
    (Scaffold("III"), "algorithm.option=III"),
    (Scaffold("I", look=1.0), "look=1.0"),
    (FedNova(momentum=1.0), "algorithm.momentum=1.0"),
    (FedAdam(rate=0.0), "algorithm.rate=0.0"),
    (FedAdam(beta2=1.0), "algorithm.beta2=1.0"),
    (FedYogi(tau=0.0), "algorithm.tau=0.0"),
    (FedAvgM(momentum=-0.1), "algorithm.momentum=-0.1"),
    (ServerOptimizer("optax.adm"), "did you mean optax.adam"),
    (FedBuff(power=-1.0), "algorithm.power=-1.0"),
    (FedBuff(oldest=-1), "algorithm.oldest=-1"),
    (Ditto(-0.1), "algorithm.strength=-0.1"),
    (FedRep(head_share=1.0), "algorithm.head_share=1.0"),
    (FedPer(base=FedDyn(-1.0)), "algorithm.alpha=-1.0"),
]


@pytest.mark.parametrize(("settings", "says"), BAD, ids=str)
def test_bad_settings_are_refused_by_name(settings, says: str) -> None:
    with pytest.raises(UserError, match=says):
        settings.build()


@pytest.mark.parametrize(
    ("kind", "change"), [(FedProx, "mu"), (FedDyn, "alpha"), (FedAdam, "rate"), (Ditto, "strength")]
)
def test_settings_may_be_known_only_when_the_program_runs(kind, change: str) -> None:
    """A round under a traced setting gives what the same number gives."""
    value = 0.2

    def after(value) -> engine.State:
        sim = four(dataclasses.replace(kind(), **{change: value}))
        placed = engine.Placed(
            sim.data.store, jnp.full(4, -1, jnp.int32), jnp.arange(4, dtype=jnp.int32), jnp.asarray(UNEQUAL)
        )
        cohort = sim.sample(ROOT, jnp.int32(0))
        return engine.one_round(sim, ALONE, engine.init(sim, ROOT), ROOT, placed, cohort)[0].server.model

    known, traced = jax.jit(lambda: after(value))(), jax.jit(after)(jnp.float32(value))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), known, traced)


DOCS = pathlib.Path(__file__).parent.parent.parent / "docs" / "algorithms.md"
ROWS = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \| (\S+) \| (\S+) \| (\S+) \|[^|]*\| (\d+) \|$", DOCS.read_text(), re.M)


def test_the_table_names_exactly_the_algorithms_there_are() -> None:
    assert [row[0] for row in ROWS] == sorted(parts.settings("algorithm"))


@pytest.mark.parametrize(("name", "server", "client", "down", "up", "lines"), ROWS, ids=[row[0] for row in ROWS])
def test_the_table_is_true(name, server, client, down, up, lines) -> None:
    """State and traffic as multiples of a model without statistics; all but a handful of bytes."""
    kind = parts.settings("algorithm")[name]
    path = pathlib.Path(__import__(kind.__module__, fromlist=["x"]).__file__)
    assert len(path.read_text().splitlines()) == int(lines) <= 80
    big = Model({name: jnp.zeros(1000 * size) for name, size in quadratics.PARTS.items()}, {})
    task = kind().build().task(QUADRATIC._replace(init=lambda key: big))
    sim = simulation(task, noise(1, 2).data, algorithm=kind().build())
    state = jax.eval_shape(lambda: engine.alone(sim, ROOT))
    kept = trees.nbytes((state.clients.model, state.clients.state)), trees.nbytes(state.server)
    sizes = [*reversed(kept), *traffic(sim.algorithm, state.server.model)]
    heads = {"fedper": 0.25, "fedrep": 0.25, "fedbn": 0.25}.get(name, 0.0)
    shown = [{"most": 1 - heads, "rest": heads}.get(word) or float(word) for word in (server, client, down, up)]
    assert [round(size / trees.nbytes(big), 2) for size in sizes] == shown


# ---- a run


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Synthetic: bright or dark images, four hospitals."""

    def build(self, seed: int) -> Federation:
        rng = np.random.default_rng(seed)
        label = np.arange(48, dtype=np.int32) % 2
        image = np.clip(rng.normal(60 + 120 * label[:, None, None, None], 30, (48, 8, 8, 1)), 0, 255).astype(np.uint8)
        from fedjax_mri.data.resident import resident

        train = resident({"image": image, "label": label}, np.split(np.arange(48), 4))
        tests = {"own": Test(train, np.arange(4, dtype=np.int32)), "new": Test(train, np.full(4, -1, np.int32))}
        return Federation(train, tests, ("dark", "bright"), np.full((4, 2), 6), synthetic=True)

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()


def test_a_run_ends_with_ensemble_student_and_fine_tuned_models(tmp_path) -> None:
    from fedjax_mri.nets.cnn import CNNSettings
    from fedjax_mri.tasks.classify import Classify

    config = Experiment(
        data=Stripes(),
        task=Classify(network=CNNSettings(widths=(8,))),
        local=LocalTraining(epochs=3, batch=4, learning_rate=0.01),
        sampling=Everyone(),
        algorithm=OneShot(),
        rounds=1,
        finetune=finetune.FineTune(epochs=1),
        distil=oneshot.Distil(source=Stripes(), epochs=20, batch=8, learning_rate=0.01),
        plan=Plan(devices=1, lanes=1, tune_s=0),
    )
    experiment.run(config, tmp_path / "run", say=lambda line: None)
    last = runfolder.read_history(tmp_path / "run")[-1]
    names = {key.removesuffix("/accuracy") for key in last if key.endswith("/accuracy")}
    assert names == {"train", "own", "new", "own/ensemble", "new/ensemble", "own/fine-tuned"}
    assert all(last[f"{name}/accuracy"] > 0.9 for name in names - {"train"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"distil": lambda: oneshot.Distil(epochs=1)}, "give distil.source"),
        ({"finetune": lambda: finetune.FineTune(-1)}, "finetune.epochs=-1"),
    ],
)
def test_bad_last_steps_are_refused(change, says) -> None:
    with pytest.raises(UserError, match=says):
        Experiment(data=Stripes(), **{name: make() for name, make in change.items()})


def test_distillation_needs_an_ensemble(tmp_path) -> None:
    config = Experiment(data=Stripes(), sampling=Everyone(), distil=oneshot.Distil(source=Stripes(), epochs=1))
    with pytest.raises(UserError, match=r"choose --fed\.algorithm oneshot"):
        experiment.run(config, tmp_path / "run", say=lambda line: None)
