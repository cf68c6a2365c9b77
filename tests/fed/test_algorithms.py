"""Each algorithm against closed forms on quadratics, its limits, and a plain loop."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratics import (
    ALONE,
    EPOCHS,
    PARTS,
    QUADRATIC,
    RATE,
    ROOT,
    SIZES,
    UNEQUAL,
    A,
    B,
    D,
    P,
    balance,
    four,
    left,
    noise,
    optimum,
    ragged,
    reached,
    run,
    sgd,
    three_rounds,
    together,
)
from simulations import classifier, plain_client, plain_round, simulation

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithm import LocalResult, traffic
from fedjax_mri.fed.algorithms.ditto import Ditto
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedbn import FedBN
from fedjax_mri.fed.algorithms.fedbuff import FedBuff
from fedjax_mri.fed.algorithms.feddyn import FedDyn
from fedjax_mri.fed.algorithms.fednova import FedNova, total_gradient_weight
from fedjax_mri.fed.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedjax_mri.fed.algorithms.fedper import FedPer
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.algorithms.fedrep import FedRep
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.algorithms.serveroptimizer import FedAvgM, ServerOptimizer
from fedjax_mri.fed.client.local import ClientStart
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import (
    Simulation,
    State,
    check_parts,
    draw_cohort,
    init_one_client,
    init_state,
    initial_state,
    place_state,
    state_shapes,
)
from fedjax_mri.fed.sampling import Everyone, Population, Sampler, cohort_of
from fedjax_mri.fed.uplink.contract import Aggregate
from fedjax_mri.fed.uplink.weigh import uniformly
from fedjax_mri.run import parts
from fedjax_mri.tasks.task import Model

VARIANTS = {name: kind() for name, kind in parts.settings("algorithm").items()} | {
    "scaffold I": Scaffold("I"),
    "fednova, momentum": FedNova(momentum=0.9),
    "fedper of scaffold": FedPer(base=Scaffold()),
    "serveroptimizer, adam": ServerOptimizer("optax.adam", 0.1),
}


@functools.cache
def expected(name: str) -> State:
    sim = ragged(VARIANTS[name])
    state = init_state(sim, ROOT)  # of operations that all have in common, which are compiled once
    for _ in range(2):
        state = plain_round(sim, state, ROOT)
    return state


SERVERS_ALONE = ("fedavgm", "fedadagrad", "fedyogi", "serveroptimizer")  # differ from fedadam in a formula, see SERVERS
# FedAvg is in most others and in test_engine.py, FedNova and FedPer are in their variants, what stays at home is in
# FedRep, Adam on the server is FedAdam's; closed forms below say the rest
WITHIN_OTHERS = (
    "fedavg", "fedbn", "feddyn", "fednova", "fedper", "fedprox", "scaffold I", "serveroptimizer, adam"
)  # fmt: skip
thorough = functools.partial(pytest.param, marks=pytest.mark.thorough)
TABLE = [
    *((name, 2, 4) for name in VARIANTS if name not in (*SERVERS_ALONE, *WITHIN_OTHERS)),
    *(thorough(name, 2, 4) for name in WITHIN_OTHERS),
    thorough("scaffold", 3, 1),
]


@pytest.mark.parametrize(("name", "lanes", "devices"), TABLE)
def test_each_equals_a_plain_loop_and_resumes_to_the_bit(name: str, lanes: int, devices: int) -> None:
    sim, plan = ragged(VARIANTS[name]), Plan(devices=devices, lanes=lanes).resolve()
    rounds = segments.build(sim, plan, ROOT, 2)
    first = jax.tree.map(lambda x: np.asarray(x).copy(), initial_state(sim, plan, ROOT))
    whole = jax.tree.map(np.asarray, rounds(place_state(plan, first), 2)[0])
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(expected(name)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=3e-5, err_msg=jax.tree_util.keystr(path))
    saved = jax.tree.map(lambda x: np.asarray(x).copy(), rounds(place_state(plan, first), 1)[0])
    jax.tree.map(np.testing.assert_array_equal, rounds(place_state(plan, saved), 1)[0], whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_moves_the_model_it_judges(name: str) -> None:
    client = int(np.argmax(expected(name).clients.rounds))
    model = lambda state: trees.join(state.server.model, trees.take(state.clients.model, client))  # noqa: E731
    before, after = model(init_state(ragged(VARIANTS[name]), ROOT)), model(expected(name))
    assert trees.norm(trees.subtract(after.params, before.params)) > 0.01


# ---- fixed points


def test_fedavg_comes_to_its_biased_fixed_point() -> None:
    biased = balance(P, np.eye(D) - left(EPOCHS))
    assert np.linalg.norm(biased - optimum()) > 0.02
    np.testing.assert_allclose(reached(four(FedAvg())), biased, atol=1e-5)


def test_fedprox_comes_to_its_own() -> None:
    mu, eye = 1.0, np.eye(D)
    towards = np.stack([np.linalg.solve(a + mu * eye, a) for a in A])  # (A + mu I)^-1 A: h_k's minimiser, from x
    biased = balance(P, (eye - left(EPOCHS, mu)) @ towards)
    np.testing.assert_allclose(reached(four(FedProx(mu))), biased, atol=1e-5)
    assert np.linalg.norm(biased - optimum()) < np.linalg.norm(balance(P, eye - left(EPOCHS)) - optimum())


UNBIASED = {
    "scaffold I": (Scaffold("I", look=1 / EPOCHS), {}),
    "scaffold, unequal steps": (Scaffold(), {"batch": 1}),
    "scaffold, two of four": (Scaffold(), {"cohort": 2}),
    "scaffold, two of four, uniform weights": (Scaffold(), {"cohort": 2, "weigh": uniformly}),
    "feddyn, two of four": (FedDyn(1.0), {"cohort": 2}),
    "feddyn, two of four, uniform weights": (FedDyn(1.0), {"cohort": 2, "weigh": uniformly}),
}


@pytest.mark.parametrize(
    "case",
    [
        thorough(case) if case in ("scaffold, two of four", "feddyn, two of four, uniform weights") else case
        for case in UNBIASED
    ],
)
def test_scaffold_and_feddyn_reach_the_optimum(case: str) -> None:
    settings, how = UNBIASED[case]
    p = np.full(4, 0.25) if how.get("weigh") is uniformly else P
    np.testing.assert_allclose(reached(four(settings, **how), 1500), optimum(p), atol=2e-5)


def test_fednova_corrects_unequal_steps() -> None:
    """With batches of one a client takes 5 to 30 steps: the bias of FedAvg is one of weights, FedNova's of drift."""
    steps = EPOCHS * UNEQUAL
    M = np.eye(D) - np.stack([left(n)[k] for k, n in enumerate(steps)])
    avg, nova = balance(P, M), balance(P, M / steps[:, None, None])
    np.testing.assert_allclose(reached(four(FedAvg(), batch=1)), avg, atol=1e-5)
    np.testing.assert_allclose(reached(four(FedNova(server_rate=0.3), batch=1)), nova, atol=1e-5)
    little = np.eye(D) - np.stack([left(n, rate=1e-5)[k] for k, n in enumerate(steps)])
    assert np.linalg.norm(balance(P, little) - optimum()) > 0.1
    assert np.linalg.norm(balance(P, little / steps[:, None, None]) - optimum()) < 1e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_s_norm_is_what_steps_of_ones_add_up_to(momentum: float) -> None:
    """A gradient of one at each step moves SGD by rate x |a|_1."""
    x, v = 0.0, 0.0
    for _ in range(7):
        v = momentum * v + 1.0
        x += v
    np.testing.assert_allclose(total_gradient_weight(jnp.int32(7), momentum), x, rtol=1e-6)


# ---- limits


SAME = [thorough(ServerOptimizer("optax.sgd", 1.0)), FedBuff(), thorough(FedProx(0.0)), thorough(FedAvgM(1.0, 0.0))]


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


def test_ditto_penalises_both_models() -> None:
    task = Ditto(0.1).build().task
    plain, (phase,) = classifier(), task(classifier(weight_decay=0.1, decayed=("logits/kernel",))).phases
    params = [plain.init(jax.random.key(seed)).params for seed in (0, 1)]
    squares = sum(float(np.square(np.asarray(one["logits"]["kernel"])).sum()) for one in params)
    assert float(phase.penalty({"shared": params[0], "personal": params[1]})) == pytest.approx(0.1 * squares, rel=1e-5)
    assert task(plain).phases[0].penalty is None


def test_ditto_s_personal_models_come_to_rest_between_both() -> None:
    """At the fixed point (A_k + lambda I) v_k = A_k b_k + lambda w."""
    state, eye = run(four(Ditto(0.5)), 400), np.eye(D)
    w = np.asarray(together(state.server.model.params["shared"]))
    np.testing.assert_allclose(w, balance(P, eye - left(EPOCHS)), atol=1e-5)
    for k in range(4):
        personal = together(trees.take(state.clients.model.params["personal"], k))
        np.testing.assert_allclose(personal, np.linalg.solve(A[k] + 0.5 * eye, A[k] @ B[k] + 0.5 * w), atol=1e-5)


# ---- what they keep


def weights(sim: Simulation) -> np.ndarray:
    return np.asarray(sim.data.sizes, np.float64) / sim.data.sizes.sum()


@pytest.mark.parametrize("settings", [thorough(Scaffold()), Scaffold("I"), FedDyn(0.3)], ids=str)
def test_the_server_s_sum_is_that_of_its_clients(settings) -> None:
    """c = sum p_k c_k and h = sum p_k g_k, after cohorts of whom some counted twice."""
    sim = ragged(settings)
    state = run(sim, 7)
    total = jax.tree.map(lambda c: np.tensordot(weights(sim), np.asarray(c, np.float64), 1), state.clients.state)
    assert trees.norm(total) > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), state.server.extra, total)


def test_scaffold_s_second_option_is_the_paper_s_formula() -> None:
    sim = ragged(Scaffold())
    rounds = segments.build(sim, ALONE, ROOT, 2)
    before = jax.tree.map(lambda x: np.asarray(x).copy(), rounds(initial_state(sim, ALONE, ROOT), 2)[0])
    after = rounds(place_state(ALONE, before), 1)[0]
    client = next(int(k) for k in draw_cohort(sim, ROOT, jnp.int32(2)).client if SIZES[k])
    kept = trees.take(before.clients, client)
    start = ClientStart(trees.join(before.server.model, kept.model), before.server, kept.state)
    model, steps, _ = plain_client(sim, before, start, client, ROOT)
    gone = trees.scale(1 / (steps * RATE), trees.subtract(start.model.params, model.params))
    wanted = trees.add(trees.subtract(kept.state, before.server.extra), gone)
    new = trees.take(after.clients.state, client)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), new, wanted)


def test_scaffold_s_first_option_is_the_gradient_at_the_server_s_model() -> None:
    """Of two epochs one looks: over all 9 examples, the last batch holding one."""
    sim = ragged(Scaffold("I"))._replace(sampler=Everyone().build(Population(SIZES)))
    x = np.asarray(together(init_state(sim, ROOT).server.model.params), np.float64)
    fields, rows = sim.data.store.fields, np.repeat(np.arange(len(SIZES)), SIZES) == 2
    gradient = np.einsum("nij,nj->ni", fields["A"][rows].astype(np.float64), x - fields["b"][rows]).mean(0)
    control = together(trees.take(run(sim, 1).clients.state, 2))
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
        state = algorithm.server(state, Aggregate(mean, (), one, one, one))
    np.testing.assert_allclose(state.model.params["x"], by_hand(settings, deltas), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.model.carry["statistic"], 10.0)  # statistics go to their mean, undistorted


# ---- late updates


def test_fedbuff_measures_late_clients_against_what_they_were_sent() -> None:
    """All four clients each round, client k being k steps late, against a loop that keeps every model."""
    rounds, late = 6, np.arange(4)
    each = jnp.arange(4, dtype=jnp.int32)
    sample = lambda key, round: cohort_of(each, staleness=each)  # noqa: E731
    sim = four(FedBuff(power=0.5, oldest=2))._replace(sampler=Sampler(sample, "other", 1.0, 3))
    models = [np.asarray(together(init_state(sim, ROOT).server.model.params), np.float64)]
    M = np.eye(D) - left(EPOCHS)
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
    head = np.arange(D) >= D - 1
    x = np.asarray(together(init_state(four(FedAvg()), ROOT).server.model.params), np.float64)
    ends = []
    for k in range(4):
        y = np.where(head, x - RATE * A[k] @ (x - B[k]), x)
        ends.append(np.where(head, y, y - RATE * A[k] @ (y - B[k])))
    state = run(sim, 1)
    np.testing.assert_allclose(state.clients.model.params["logits"][:, 0], np.array(ends)[:, -1], rtol=1e-5, atol=1e-6)
    body = np.concatenate([state.server.model.params["body"], state.server.model.params["norm"]])
    np.testing.assert_allclose(body, (P @ np.array(ends))[:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [FedRep(), Scaffold("I"), FedRep(head_share=0.75)], ids=str)
def test_an_algorithm_for_which_clients_take_too_few_steps_is_refused(settings) -> None:
    """Of n steps the first, or the first 3 n / 4, leave the shared model as it is; then it must move once."""
    needed = 4 if settings == FedRep(head_share=0.75) else 2
    sims = [four(settings)._replace(local=sgd(steps, 6)) for steps in (needed - 1, needed)]
    check_parts(sims[1], state_shapes(sims[1]))
    with pytest.raises(UserError, match=f"of {needed - 1} local steps? .*give more --local.epochs"):
        check_parts(sims[0], state_shapes(sims[0]))


def test_a_pattern_that_matches_nothing_is_named_with_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"algorithm.head: 'heads' matches nothing; there are params/body, .*carry/norm"
    ):
        four(FedPer(head=("logits", "heads")))


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


NUMBERS = [
    (kind, field.name)
    for kind in parts.settings("algorithm").values()
    for field in dataclasses.fields(kind)
    if isinstance(field.default, float)
]


@pytest.mark.parametrize(("kind", "field"), NUMBERS, ids=lambda one: getattr(one, "__name__", one))
def test_numbers_may_be_known_only_when_the_program_runs(kind, field: str) -> None:
    """An exchange between a client and the server under a traced setting gives what the same number gives."""

    def exchange(value) -> tuple:
        algorithm = dataclasses.replace(kind(), **{field: value}).build()
        params = {"shared": jnp.arange(3.0), "personal": jnp.ones(3)}
        server, client, late = algorithm.init(Model(params, {})), algorithm.init_client(Model(params, {})), jnp.int32(2)
        sent, moved, one = algorithm.broadcast(server, late), trees.scale(2.0, params), jnp.float32(1)
        grads = algorithm.gradient(params, moved, params, sent, client)
        accumulated = algorithm.accumulate(grads, one, jnp.float32(0.1))
        result = LocalResult(Model(moved, {}), late, one, one, late, one, accumulated)
        update = algorithm.finish(sent, client, result)
        client = algorithm.update_client_state(sent, client, result, update)
        return grads, client, algorithm.server(server, Aggregate(update.delta, update.auxiliary, one, one, one))

    known, traced = exchange(0.25), jax.jit(exchange)(jnp.float32(0.25))
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
    big = Model({name: jnp.zeros(1000 * size) for name, size in PARTS.items()}, {})
    task = kind().build().task(QUADRATIC._replace(init=lambda key: big))
    sim = simulation(task, noise(1, 2).data, algorithm=kind().build())
    state = jax.eval_shape(lambda: init_one_client(sim.task, sim.algorithm, sim.uplink, ROOT))
    kept = trees.nbytes((state.clients.model, state.clients.state)), trees.nbytes(state.server)
    sizes = [*reversed(kept), *traffic(sim.algorithm, sim.uplink, state.server.model)]
    heads = {"fedper": 0.25, "fedrep": 0.25, "fedbn": 0.25}.get(name, 0.0)
    shown = [{"most": 1 - heads, "rest": heads}.get(word) or float(word) for word in (server, client, down, up)]
    assert [round(size / trees.nbytes(big), 2) for size in sizes] == shown
