"""Compression: bytes as they are really written, closed forms, unbiased means, error feedback, and what is refused."""

import math
import pathlib
import re

import compression_table
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratics import EPOCHS, ROOT, P, balance, four, left, run, together
from quadratics import D as D_QUADRATIC
from simulations import SIZES
from tiny import Grey

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed import downlink
from fedjax_mri.fed.algorithm import traffic
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedbuff import FedBuff
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.fed.algorithms.oneshot import OneShot
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import check_simulation, init_state
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.sampling import Cyclic, Diurnal, Everyone, Poisson, Population, Uniform
from fedjax_mri.fed.secure.integer import Integer
from fedjax_mri.fed.uplink import wire
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.compress import target
from fedjax_mri.fed.uplink.compressor import decoded, flat
from fedjax_mri.fed.uplink.contract import Aggregate, Sender, Update, UplinkState
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.cast import Cast
from fedjax_mri.fed.uplink.stages.clip import Clip
from fedjax_mri.fed.uplink.stages.codebook import Codebook
from fedjax_mri.fed.uplink.stages.drive import Drive
from fedjax_mri.fed.uplink.stages.lowrank import LowRank
from fedjax_mri.fed.uplink.stages.momentum import Momentum
from fedjax_mri.fed.uplink.stages.partial import Partial
from fedjax_mri.fed.uplink.stages.qsgd import QSGD
from fedjax_mri.fed.uplink.stages.randk import RandK
from fedjax_mri.fed.uplink.stages.scaledsign import ScaledSign
from fedjax_mri.fed.uplink.stages.terngrad import TernGrad
from fedjax_mri.fed.uplink.stages.topk import TopK
from fedjax_mri.fed.world.conditions import Ideal, Stragglers
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run import experiment, parts, restore, runfolder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.task import Model

KEY, PLAN = jax.random.key(7), Plan(devices=2, lanes=2)
SENDER = Sender(jnp.int32(3), jnp.int32(5), KEY, jnp.float32(7), jnp.float32(1), UplinkState((), ()))
SHAPES = {"bias": (7,), "dense": (30, 20), "kernel": (3, 3, 4, 8), "scale": ()}
D = sum(math.prod(shape) for shape in SHAPES.values())
STATISTICS, BESIDE = {"mean": (5,)}, 3  # floats that travel as they are
REST = 4 * (5 + BESIDE)


def draw(shapes: dict, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def update(seed: int = 0) -> Update:
    return Update(
        Model(draw(SHAPES, seed), draw(STATISTICS, seed)), jnp.arange(BESIDE, dtype=jnp.float32), jnp.float32(2)
    )


def normal(values: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=values), jnp.float32)


# ---- bytes: the formulas of the papers, written out once more

BYTES = {  # settings -> bits of a message
    TopK(0.05): 45 * 10 + 32 * 45,  # of 896 values, whose places take 10 bits each
    TopK(0.5, "ef21"): D + 32 * 448,  # a mark at each value is shorter than 448 places
    RandK(0.05, common=True, feedback="ef"): 32 + 32 * 45,
    QSGD(3, 128): D * (1 + 2) + 32 * 7,
    TernGrad(): 2 * D + 32 * 2,
    Cast(): 16 * D,
    Cast("int8", 0): 8 * D + 32,
    ScaledSign(): D + 32,
    ScaledSign(100, "ef21"): D + 32 * 9,
    Drive(0.25, 256): 32 + 4 * 64 + 32 * 4,
    Codebook(3): 3 * D + 32 * 8,
    LowRank(2): 32 * (2 * (30 + 20) + 2 * (36 + 8) + 7 + 1),
    Partial(0.25): 32 + 32 * 224,
    Partial(0.25, "change"): 4 * 2 + 32 * 224,
}


def feedback(settings) -> str:
    return getattr(settings, "feedback", "none")


@pytest.mark.parametrize("settings", BYTES, ids=str)
def test_the_bytes_are_those_really_written_and_what_is_read_is_what_the_server_gets(settings) -> None:
    stage, compressor, sent = settings.build(), settings.compressor(), update()
    memory = stage.init_client(sent)
    for seed in (1, 2):  # the second update meets what the first has left
        before, change = memory, update(seed)
        arrived, memory, _ = stage.client(change, memory, SENDER)
        wanted = target(feedback(settings), change.delta.params, before.kept)
        message, fields = compressor.encode(wanted, KEY, SENDER.round), compressor.fields(wanted)
        data = wire.pack(message, fields, (change.delta.carry, change.auxiliary))
        assert len(data) == stage.wire(sent, 10**6) == -(-BYTES[settings] // 8) + REST
        read, (carry, auxiliary) = wire.unpack(data, fields, (sent.delta.carry, sent.auxiliary))
        params = compressor.decode(tuple(map(jnp.asarray, read)), sent.delta.params)
        if feedback(settings) == "ef21":
            params = trees.add(before.kept, params)
        jax.tree.map(
            np.testing.assert_array_equal, arrived, change._replace(delta=Model(params, carry), auxiliary=auxiliary)
        )


def test_bits_lie_without_gaps_and_a_message_of_another_length_is_refused() -> None:
    compressor = TopK(0.5).compressor()
    vector = jnp.asarray([0.0, -3.0, 1.0, 2.0])
    (places, values), fields = compressor.encode(vector, KEY, jnp.int32(0)), compressor.fields(vector)
    assert list(places) == [1, 3] and list(values) == [-3, 2]
    data = wire.pack((places, values), fields)
    assert data == (0b0101 << 68 | 0xC0400000 << 36 | 0x40000000 << 4).to_bytes(9, "big")
    with pytest.raises(UserError, match="a message of 8 bytes: must have 9"):
        wire.unpack(data[1:], fields)


# ---- closed forms


def error(compressor, vector: jax.Array, keys: int = 200) -> float:
    """The mean of |C(v) - v|^2 / |v|^2 over keys."""
    each = jax.vmap(lambda key: jnp.sum(jnp.square(decoded(compressor, vector, key, jnp.int32(0)) - vector)))
    return float(jax.jit(each)(jax.random.split(KEY, keys)).mean() / jnp.sum(vector**2))


def test_qsgd_has_the_variance_of_its_closed_form() -> None:
    """Table: 2.19 of a bound of 4 with 16 levels, .167 of 1 with 64; and the sum of p (1 - p) over values."""
    vector = normal(4096)
    for levels, wanted in ((16, 2.19), (64, 0.167)):
        shares = levels * np.abs(np.float64(vector)) / np.linalg.norm(np.float64(vector))
        exact = np.sum((shares % 1) * (1 - shares % 1)) / levels**2
        found = error(QSGD(levels, 0).compressor(), vector, 50)
        np.testing.assert_allclose(found, exact, rtol=0.01)
        np.testing.assert_allclose(found, wanted, rtol=0.03)
        assert found < min(4096 / levels**2, 64 / levels)


def test_rand_k_has_the_variance_d_over_k_less_one() -> None:
    np.testing.assert_allclose(error(RandK(1 / 8).compressor(), normal(512), 1000), 8 - 1, rtol=0.05)
    unscaled = error(RandK(1 / 8, feedback="ef").compressor(), normal(512), 1000)
    np.testing.assert_allclose(unscaled, 1 - 1 / 8, rtol=0.05)


def test_scaled_signs_keep_the_share_of_their_closed_form() -> None:
    vector = normal(4096)
    share = float(jnp.abs(vector).sum() ** 2 / (4096 * jnp.sum(vector**2)))
    np.testing.assert_allclose(1 - error(ScaledSign().compressor(), vector, 1), share, rtol=1e-4)
    assert abs(share - 0.637) < 0.01


def test_rotated_signs_err_by_half_pi_less_one_whatever_the_vector() -> None:
    """DRIVE, theorem 3; a share of the coordinates costs d pi / (2 k) - 1. The vector here has a few large values."""
    vector = normal(2048) * jnp.where(jnp.arange(2048) % 7 == 0, 5.0, 0.5)
    for share in (1.0, 0.25):
        found = error(Drive(share, 1024).compressor(), vector, 20)
        np.testing.assert_allclose(found, math.pi / 2 / share - 1, rtol=0.03)


def test_codebooks_reach_the_least_distortion_of_a_normal_variable() -> None:
    """Max 1960, table 1: .03454 with 8 levels and .3634 with 2."""
    for bits, wanted in ((3, 0.03454), (1, 0.3634)):
        np.testing.assert_allclose(error(Codebook(bits, 40).compressor(), normal(4000), 1), wanted, rtol=0.06)


def test_low_rank_is_near_the_best_of_that_rank() -> None:
    """By NumPy's singular values; a matrix of that rank comes back whole, whatever its axes."""
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(36, 9)) * 0.5 ** np.arange(9)) @ rng.normal(size=(9, 8))
    values = np.linalg.svd(matrix, compute_uv=False)
    best = np.sum(values[2:] ** 2) / np.sum(values**2)
    kernel = jnp.asarray(matrix.reshape(3, 3, 4, 8), jnp.float32)
    assert best < error(LowRank(2, 4).compressor(), kernel, 5) < 1.1 * best
    exact = jnp.asarray(matrix @ np.linalg.pinv(matrix[:2]) @ matrix[:2], jnp.float32)
    assert error(LowRank(2).compressor(), exact, 5) < 1e-9
    assert not np.any(decoded(LowRank(2).compressor(), jnp.zeros((30, 20)), KEY, jnp.int32(0)))


UNBIASED = [RandK(0.25), RandK(0.25, common=True), QSGD(2, 16), TernGrad(0, 16), Cast("int8", 0)]


@pytest.mark.parametrize("settings", UNBIASED, ids=str)
def test_the_mean_over_keys_is_what_was_sent(settings) -> None:
    vector, count = normal(60), 4000
    rounds = jnp.arange(count, dtype=jnp.int32)  # by which common places are drawn
    each = jax.jit(jax.vmap(lambda key, round: decoded(settings.compressor(), vector, key, round)))
    found = np.asarray(each(jax.random.split(KEY, count), rounds), np.float64)
    spread = found.std(0) / np.sqrt(count)
    assert np.all(np.abs(found.mean(0) - vector) < 4.5 * spread + 1e-6) and spread.max() > 1e-4


def test_the_mean_over_rotations_is_nearly_what_was_sent() -> None:
    """Nearly, since structured rotations are not quite as even as those of the proof."""
    vector, compressor = normal(1024), Drive(0.5, 1024).compressor()
    total = jax.jit(lambda keys: jax.vmap(lambda key: decoded(compressor, vector, key, jnp.int32(0)))(keys).mean(0))
    off = jnp.linalg.norm(total(jax.random.split(KEY, 1000)) - vector) / jnp.linalg.norm(vector)
    assert 0.5 < float(off) / math.sqrt((math.pi - 1) / 1000) < 1.3


def test_of_a_partial_update_each_value_has_its_turn_or_the_layers_that_changed_most_are_sent() -> None:
    ones = jnp.ones(10)
    parts = [np.asarray(decoded(Partial(0.3).compressor(), ones, KEY, jnp.int32(round))) for round in range(5)]
    np.testing.assert_array_equal(np.sum(parts[:4], 0), [2, 2, 1, 1, 1, 1, 1, 1, 1, 1])  # the last turn wraps around
    np.testing.assert_array_equal(parts[4], parts[0])
    layers = {"a": jnp.full(4, 0.1), "b": jnp.full((2, 3), -2.0), "c": jnp.full(2, 1.0)}
    found = decoded(Partial(0.75, "change").compressor(), layers, KEY, jnp.int32(0))
    jax.tree.map(np.testing.assert_array_equal, found, {**layers, "a": jnp.asarray([0.1, 0, 0, 0])})


# ---- error feedback


@pytest.mark.parametrize("settings", [one for one in BYTES if feedback(one) == "ef"], ids=str)
def test_feedback_loses_nothing(settings) -> None:
    """What was sent over three rounds and what is left add up to what was meant; the memory is not used up."""
    stage, changes, sent = settings.build(), [update(seed) for seed in range(3)], []
    memory, client = stage.init_client(changes[0]), jax.jit(stage.client)
    for number, change in enumerate(changes):
        arrived, memory, notes = client(change, memory, SENDER._replace(round=jnp.int32(number)))
        sent.append(flat(arrived.delta.params))
    meant = sum(flat(change.delta.params) for change in changes)
    np.testing.assert_allclose(sum(sent) + flat(memory.kept), meant, rtol=1e-4, atol=1e-5)
    assert 0 <= float(notes["error"]) <= 1


def test_top_1_diverges_where_ef21_goes_to_the_optimum() -> None:
    """Table: f_i = <a_i, x>^2 + |x|^2 / 4, a_i the permutations of (-3, 2, 2), rate .01, from ones."""
    A = jnp.asarray([[-3.0, 2, 2], [2, -3, 2], [2, 2, -3]])

    def descend(how: str) -> float:
        stage = TopK(1 / 3, how).build()
        client = jax.vmap(lambda g, memory: stage.client(Update(Model(g, ()), (), jnp.float32(1)), memory, SENDER)[:2])

        def step(carry, _):
            x, memory = carry
            gradients = 2 * (A @ x)[:, None] * A + x[None] / 2
            sent, memory = client(gradients, memory)
            return (x - 0.01 * sent.delta.params.mean(0), memory), None

        first = stage.init_client(Update(Model(A[0], ()), (), jnp.float32(1)))
        (x, _), _ = jax.lax.scan(step, (jnp.ones(3), trees.repeat(first, 3)), length=2000)
        return float(jnp.linalg.norm(x))

    assert not descend("none") < 1e3 and descend("ef21") < 1e-3


@pytest.mark.parametrize("how", ["none", "ef", "ef21"])
def test_a_change_that_is_not_finite_leaves_no_trace_but_a_count(how: str) -> None:
    stage = TopK(0.1, how).build()
    _, memory, _ = stage.client(update(1), stage.init_client(update()), SENDER)
    bad = update(2)
    for value in (np.nan, np.inf):
        bad.delta.params["bias"] = bad.delta.params["bias"].at[2].set(value)
        sent, after, notes = stage.client(bad, memory, SENDER)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves((sent.delta, sent.auxiliary)))
        assert (float(notes["nonfinite"]), float(notes["error"]), float(after.nonfinite.updates)) == (1, 0, 1)
        jax.tree.map(np.testing.assert_array_equal, after.kept, memory.kept)


def test_half_precision_keeps_its_type() -> None:
    half = Update(Model({"w": jnp.ones(8, jnp.bfloat16)}, {}), (), jnp.float32(1))
    stage = ScaledSign().build()
    sent, memory, _ = stage.client(half, stage.init_client(half), SENDER)
    assert sent.delta.params["w"].dtype == jnp.bfloat16 and memory.kept["w"].dtype == jnp.float32


PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "compression.md").read_text()


def test_the_page_says_of_each_compressor_whether_it_is_right_in_the_mean_and_needs_feedback() -> None:
    section = PAGE.split("## Which one")[1].split("\n## ")[0]
    rows = {
        name: (mean, needs) for name, mean, needs in re.findall(r"^\| `(\w+)` \| ([^|]*) \| (\w+) \|", section, re.M)
    }
    kinds = {name: kind for name, kind in parts.settings("uplink.stages").items() if hasattr(kind, "compressor")}
    assert rows.keys() == kinds.keys()
    for name, kind in kinds.items():
        assert rows[name][1] == ("yes" if feedback(kind()) == "ef" else "no")
        unbiased = kind in map(type, UNBIASED) or kind is Drive
        assert (rows[name][0] == "no") != unbiased


def test_the_page_shows_the_figures_of_the_study() -> None:
    results = pathlib.Path(__file__).parents[2] / "studies" / "results" / "compression.csv"
    assert compression_table.table(compression_table.read(results)) in PAGE


# ---- with other parts


def with_settings(sim, *settings, **changes):
    return sim._replace(uplink=sim.uplink._replace(stages=chain(*(one.build() for one in settings)), **changes))


def test_what_means_nothing_is_refused() -> None:
    sim, plan = four(FedAvg()), PLAN.resolve()
    with pytest.raises(UserError, match="put momentum first: --fed"):
        check_simulation(with_settings(sim, TopK(), Momentum()), plan)
    with pytest.raises(UserError, match="topk and qsgd each encode the update; choose one"):
        check_simulation(with_settings(sim, TopK(), QSGD()), plan)
    with pytest.raises(UserError, match="topk: an ensemble needs each client's model as it is"):
        check_simulation(with_settings(four(OneShot()), TopK()), plan)
    median = Median().build()
    for sparse in (TopK(), RandK(), Partial(by="change")):
        with pytest.raises(UserError, match=r"median gives zeros; .* randk with common=true"):
            check_simulation(with_settings(sim, sparse, reduce=median), plan)
    for fine in (RandK(common=True), Drive(), Partial()):
        check_simulation(with_settings(sim, Clip(), fine, reduce=median), plan)
    for settings, says in {
        TopK(0.0): "share=0.0: must be a share above 0",
        QSGD(0): "levels=0",
        QSGD(1, -1): "bucket=-1",
        TernGrad(-1): "clip=-1",
        ScaledSign(-1): "bucket=-1",
        Drive(block=100): "block=100: must be a power of two",
        Codebook(0): "bits=0",
        Codebook(1, 0): "steps=0",
        LowRank(0): "rank=0",
    }.items():
        with pytest.raises(UserError, match=says):
            settings.build()


def test_a_secure_sum_is_taken_of_common_places_alone() -> None:
    uplink = UplinkSettings(stages=(RandK(0.5, common=True),)).build()
    secure = Integer().build(uplink, 4, np.ones(4))
    assert secure.stages.wire(update(), 0) == uplink.stages.wire(update(), 0) == 4 + 4 * round(D / 2) + REST
    assert Partial().build().linear and Partial(feedback="none").build().linear
    for other in (RandK(), RandK(common=True, feedback="ef21"), TopK(), Drive(), Cast(), Partial(by="change")):
        with pytest.raises(UserError, match="such as clip, or randk with common=true"):
            Integer().build(UplinkSettings(stages=(other,)).build(), 4, np.ones(4))


@pytest.mark.parametrize(
    "settings", [TopK(0.1, "ef21"), RandK(0.1), Drive(block=64), LowRank(2, feedback="none")], ids=str
)
def test_the_private_clip_bounds_what_was_compressed(settings) -> None:
    """It comes after the stages, so that no compressor undoes the bound of the mechanism."""
    private, _ = Client(noise=1.0, clip=0.5).build(UplinkSettings(stages=(settings,)), None, 1.0, None)
    bound = UplinkState((), private.reduce.init(update()))
    plain = update()._replace(auxiliary=(), delta=update().delta._replace(carry={}))
    sent, _, _ = private.stages.client(plain, private.stages.init_client(plain), SENDER._replace(server=bound))
    assert float(trees.norm(sent.delta)) < 1 + 1e-6 and private.stages.sensitivity(float("inf")) == 1.0


def test_clients_that_share_nothing_send_nothing() -> None:
    sim = with_settings(four(LocalOnly()), TopK())
    check_simulation(sim, PLAN.resolve())
    assert traffic(sim.algorithm, sim.uplink, init_state(sim, ROOT).server.model).up == 0


def test_control_variates_travel_as_they_are() -> None:
    sim = with_settings(four(Scaffold()), Cast())
    model = init_state(sim, ROOT).server.model
    each = traffic(sim.algorithm, sim.uplink, model)
    assert each.up == trees.nbytes(model.params) // 2 + trees.nbytes((model.carry, model.params))


# ---- the downlink


def with_downlink(sim, settings):
    return sim._replace(algorithm=downlink.with_downlink(sim.algorithm, settings))


@pytest.mark.parametrize("settings", [TopK(0.25), RandK(0.25), QSGD(1, 0), TernGrad(), Drive(0.1, 4)], ids=str)
def test_the_copy_of_the_clients_follows_a_server_that_stands_still(settings) -> None:
    """However coarse the messages, also where their noise alone would grow without end."""
    algorithm = downlink.with_downlink(FedAvg().build(), settings)
    state = algorithm.init(Model({"w": jnp.zeros(16)}, {}))
    goal = normal(16)
    state = state._replace(model=Model({"w": goal}, {}))
    none = Model({"w": jnp.zeros(16)}, {})
    one = jnp.float32(1)
    step = jax.jit(lambda state: algorithm.server(state, Aggregate(none, (), one, one, one)))
    for _ in range(300):
        state = step(state)
    held = algorithm.broadcast(state, jnp.int32(0)).model.params["w"]
    np.testing.assert_allclose(held, goal, atol=2e-3)
    assert int(state.extra.sent) == 300


def test_a_compressed_broadcast_leads_to_the_same_optimum_with_fewer_bytes() -> None:
    """To that of FedAvg in closed form."""
    sim, signs = four(FedAvg()), ScaledSign()
    state = run(with_downlink(sim, signs), 300)
    moved = np.eye(D_QUADRATIC) - left(EPOCHS)
    np.testing.assert_allclose(together(state.server.model.params), balance(P, moved), atol=1e-3)
    model = state.server.model
    down = [traffic(one.algorithm, sim.uplink, model).down for one in (sim, with_downlink(sim, signs))]
    assert down == [trees.nbytes(model), -(-(trees.count(model.params) + 32) // 8) + trees.nbytes(model.carry)]


def test_a_downlink_that_clients_would_miss_is_refused() -> None:
    clients, ideal = Population(SIZES, rounds=3), Ideal()
    everyone, number = Everyone().build(clients), len(SIZES)
    for settings in (Everyone(), Everyone(2), Uniform(number), Poisson(1.0), Cyclic(number)):
        downlink.check_downlink(TopK(), settings.build(clients), Stragglers(lost_after=0.5))
    downlink.check_downlink(None, Uniform(4).build(clients), Stragglers(lost_before=0.5))
    for settings, law in ((Uniform(4), "fixed"), (Uniform(number, True), "replacement"), (Diurnal(number), "other")):
        with pytest.raises(UserError, match=rf"{law} sampling.* choose --fed\.sampling everyone"):
            downlink.check_downlink(TopK(), settings.build(clients), ideal)
    with pytest.raises(UserError, match=r"choose --conditions\.lost_before 0"):
        downlink.check_downlink(TopK(), everyone, Stragglers(lost_before=0.1))
    with pytest.raises(UserError, match="downlink=clip: does not compress"):
        downlink.with_downlink(FedAvg().build(), Clip())
    with pytest.raises(UserError, match="remembers several broadcasts"):
        downlink.with_downlink(FedBuff().build(), TopK())


def test_a_run_with_both_ways_compressed_is_restored_and_counts_its_bytes(tmp_path) -> None:
    """With what hospitals and server keep, as it was after the last round."""
    config = Experiment(
        Grey(),
        task=Classify(network=CNNSettings(widths=(4,), hidden=8)),
        local=LocalTraining(batch=4),
        sampling=Everyone(),
        uplink=UplinkSettings(stages=(TopK(0.1),)),
        downlink=Drive(1.0, 64),
        rounds=2,
        evaluate_every=1,
        plan=Plan(devices=1, lanes=1, conv="gemm", tune_s=0),
    )
    experiment.run(config, tmp_path / "run", say=lambda line: None)
    found = restore.restore(tmp_path / "run")
    server, values = found.state.server, trees.count(found.state.server.model.params)
    assert int(server.extra.sent) == 2 and float(trees.norm(found.state.clients.uplink["topk"].kept)) > 0
    gap = trees.norm(trees.subtract(server.model.params, server.extra.copy))
    assert 0 < float(gap) < 0.5 * float(trees.norm(server.model.params))
    simulated = runfolder.read_history(tmp_path / "run")[-1]
    places, blocks = max(1, round(0.1 * values)), -(-values // 64)
    up = -(-(min(places * math.ceil(math.log2(values)), values) + 32 * places) // 8)
    down = -(-(32 + 64 * blocks + 32 * blocks + 32) // 8)
    np.testing.assert_allclose([simulated["simulated/up_mb"], simulated["simulated/down_mb"]], [5e-6 * up, 5e-6 * down])
