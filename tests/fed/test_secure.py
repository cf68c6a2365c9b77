"""Sums in fixed point: masks change no bit, the error is as promised, and what cannot be summed is refused."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratics import SIZES as QUADRATIC_SIZES
from quadratics import ragged
from simulations import SIZES, classifier, images, secure, simulation
from tiny import Grey

from fedjax_mri.core import keys, programs
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedbuff import FedBuff
from fedjax_mri.fed.algorithms.fedopt import FedAdam
from fedjax_mri.fed.algorithms.oneshot import OneShot
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, check_simulation, initial_state
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.privacy.local import LocalSettings
from fedjax_mri.fed.sampling import Everyone, Population, Uniform
from fedjax_mri.fed.secure import masks
from fedjax_mri.fed.secure.integer import Integer
from fedjax_mri.fed.secure.masked import Masked
from fedjax_mri.fed.uplink.contract import RoundContext, Sender, Stage, Update, Uplink, UplinkState
from fedjax_mri.fed.uplink.reductions.exact import Exact
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.world.conditions import Stragglers
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.report import leave_one_out
from fedjax_mri.report import run as report
from fedjax_mri.run import experiment, results
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.costs import costs
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.task import Model

K, D, ROOT, KEY = 24, 300, jax.random.key(11), jax.random.key(4)
ROUND_KEY = keys.round_purpose(jax.random.fold_in(ROOT, 0), keys.RoundPurpose.REDUCE)
AT = RoundContext(jnp.int32(0), ROUND_KEY, jnp.float32(1), jnp.float32(1))
UPLINK = UplinkSettings()
INTEGER, MASKED = (kind(range=0.5).build(UPLINK.build(), K, np.full(K, 7)) for kind in (Integer, Masked))
STEP = 0.5 / 2**26  # with 24 places


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [K], values [K, D] within the range, and places, of which a third sent nothing."""
    rng = np.random.default_rng(seed)
    places = np.where(rng.permutation(K) < K // 3, -1, np.arange(K)).astype(np.int32)
    return rng.uniform(0.1, 1, K).astype(np.float32), rng.uniform(-0.5, 0.5, (K, D)).astype(np.float32), places


def total_of(uplink: Uplink, weights: jax.Array, values: jax.Array, places: jax.Array, lanes: int, devices: int):
    """The accumulator where each of some devices adds a share of the updates, `lanes` of them at a time."""
    reduce = uplink.reduce
    zero = reduce.begin(reduce.zero(Update(Model(values[0], ()), (), weights[0]), K), ROOT, AT.round)

    def one_device(*rows: jax.Array):
        groups = jax.tree.map(lambda x: x.reshape(-1, lanes, *x.shape[1:]), rows)
        add = lambda total, each: (reduce.add(total, Update(Model(each[1], ()), (), each[0]), each[2]), None)  # noqa: E731
        return reduce.merge(jax.lax.scan(add, zero, groups)[0], "devices")

    shares = jax.tree.map(lambda x: jnp.reshape(x, (devices, -1, *x.shape[1:])), (weights, values, places))
    merged = jax.vmap(one_device, axis_name="devices")(*shares)
    return jax.tree.map(lambda leaf: leaf[0], merged)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def summed(uplink: Uplink, weights, values, places, lanes: int = 1, devices: int = 1):
    """The masked or plain words of the sum, and the aggregate."""
    total = total_of(uplink, weights, values, places, lanes, devices)
    return total.words, uplink.reduce.finish(total, (), AT)[0]


def assert_same_bits(a: jax.Array, b: jax.Array) -> None:
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


@pytest.mark.parametrize(("lanes", "devices"), [(1, 1), (3, 2), (1, 8)])
def test_masks_change_no_bit_of_a_sum_in_any_order_with_drop_outs(lanes: int, devices: int) -> None:
    weights, values, places = drawn()
    words, wanted = summed(INTEGER, weights, values, places)
    order = np.random.default_rng(1).permutation(K)
    masked, found = summed(MASKED, weights[order], values[order], places[order], lanes, devices)
    jax.tree.map(assert_same_bits, found, wanted)
    assert all(np.mean(a == b) < 0.02 for a, b in zip(jax.tree.leaves(masked), jax.tree.leaves(words)) if a.size > 1)


def test_a_sum_is_within_half_a_step_a_client_of_the_sum_of_floats() -> None:
    weights, values, places = drawn(2)
    _, found = summed(INTEGER, weights, values, places)
    sent = places >= 0
    products = np.float64(weights[:, None] * (values / np.float32(0.5))) * sent[:, None]
    total = np.asarray(found.delta.params, np.float64) / 0.5 * float(found.weight)
    rounded = np.abs(products.sum(0)).max() * 2.0**-21  # of the result to float32, and its division
    assert np.abs(total - products.sum(0)).max() <= sent.sum() * 2.0**-27 + rounded
    np.testing.assert_allclose(found.weight, weights[sent].sum(), atol=sent.sum() * 2.0**-27 + 1e-6)
    assert float(found.clients) == sent.sum()


def test_few_bits_show_the_bound_on_the_error_and_that_it_is_nearly_reached() -> None:
    coarse = Integer(range=0.5, bits=6).build(UPLINK.build(), K, np.full(K, 7))
    _, values, _ = drawn(3)
    ones, everyone = np.ones(K, np.float32), np.arange(K, dtype=np.int32)
    error = np.abs(np.asarray(summed(coarse, ones, values, everyone)[1].delta.params) * K - np.float64(values).sum(0))
    assert 0.1 * K * 0.5 / 2**7 < error.max() <= K * 0.5 / 2**7 + 1e-5
    half = np.full((K, D), 0.5 / 2**7 * 0.999, np.float32)  # each is rounded down by half a step
    lost = np.asarray(summed(coarse, ones, half, everyone)[1].delta.params)
    assert np.all(lost == 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_does_not_overflow(sign: int) -> None:
    ones, everyone = np.ones(K, np.float32), np.arange(K, dtype=np.int32)
    for uplink in (INTEGER, MASKED):
        found = summed(uplink, ones, np.full((K, D), 0.5 * sign, np.float32), everyone)[1]
        np.testing.assert_array_equal(found.delta.params, np.float32(0.5 * sign))
    with pytest.raises(UserError, match=r"secure.bits=27: the sum of 24 clients could overflow 32 bits; choose 26 or"):
        Masked(bits=27).build(UPLINK.build(), K, SIZES)


def test_masks_of_pairs_cancel_and_those_of_rounds_differ() -> None:
    like, places = jnp.zeros(2000, jnp.uint32), jnp.arange(5, dtype=jnp.int32)
    pair = [masks.signed_pair(KEY, places[a], places[b], like) for a, b in ((1, 3), (3, 1))]
    assert not np.any(pair[0] + pair[1]) and np.any(pair[0])
    each = jax.vmap(lambda place: masks.mask(KEY, place, 5, like))(places)
    own = sum(masks.signed_pair(KEY, place, place, like) for place in places)
    np.testing.assert_array_equal(each.sum(0, dtype=jnp.uint32), own)
    later = masks.mask(jax.random.fold_in(KEY, 1), places[0], 5, like)
    bits = np.unpackbits(np.asarray(each[0] ^ later).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.01


# ---- whole runs


@pytest.fixture
def optimised(users_options, monkeypatch) -> None:
    """Programs as users have them, see test_exact.py."""
    monkeypatch.setattr(programs, "xla_options", users_options)


def trained(sim: Simulation, devices: int, rounds: int = 4):
    plan = Plan(devices=devices, lanes=1).resolve()
    return segments.build(sim, plan, ROOT, rounds)(initial_state(sim, plan, ROOT), rounds)[:2]


def dropping(settings: Integer | Masked) -> Simulation:
    """FedAdam where clients come late, and fail before and after their work."""
    sim = ragged(FedAdam())._replace(sampler=Uniform(4).build(Population(QUADRATIC_SIZES)))
    lossy = Stragglers(lost_before=0.2, lost_after=0.3).build(Population(sim.data.sizes))
    return secure(sim, settings, conditions=lossy)


def test_a_masked_run_on_8_devices_has_the_bits_of_an_integer_run_on_1(optimised) -> None:
    wanted, work = trained(dropping(Integer(range=4.0)), 1)
    assert np.sum(work.cost.lost) > 0 and np.sum(work.clients) > 0
    state, masked_work = trained(dropping(Masked(range=4.0)), 8)
    jax.tree.map(assert_same_bits, state.server, wanted.server)
    assert np.sum(masked_work.notes["secure/clipped"]) == 0


def test_values_beyond_the_range_and_updates_that_are_not_finite_are_counted() -> None:
    stage = Integer(range=0.25).build(UPLINK.build(), K, SIZES).stages
    values = jnp.float32([0.1, -0.3, 0.25, 9.0])
    states = stage.init_client(Update(Model(values, ()), (), jnp.float32(1)))
    sent, state, notes = stage.client(Update(Model(values, ()), (), jnp.float32(1.5)), states, sender())
    np.testing.assert_array_equal(sent.delta.params, np.float32([0.1, -0.25, 0.25, 0.25]))
    assert sent.weight == 1 and notes["secure/clipped"] == 3 and notes["secure/nonfinite"] == 0
    sent, state, notes = stage.client(Update(Model(values * jnp.inf, ()), (), jnp.float32(1)), states, sender())
    assert not np.any(sent.delta.params) and state["secure"].updates == 1
    assert notes["secure/clipped"] == 0 and notes["secure/nonfinite"] == 1


def sender(server: UplinkState = UplinkState((), ())) -> Sender:  # noqa: B008
    return Sender(jnp.int32(0), jnp.int32(0), KEY, jnp.float32(1), jnp.float32(1), server)


# ---- with privacy


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def released(settings: Client, noise: float, how: Integer | Masked, values: np.ndarray, places: np.ndarray):
    """What the server has of `values` [K, D] that pass the stages of a private uplink, times the average cohort K."""
    private, _ = settings.build(UPLINK, Local(1, 4, optax.sgd, jnp.float32), noise, Population(SIZES))
    uplink = how.build(private, K, np.full(K, 7))
    updates = Update(Model(jnp.asarray(values), ()), (), jnp.ones(K))
    one = jax.tree.map(lambda x: x[0], updates)
    server = UplinkState((), uplink.reduce.init(one))
    sent = jax.vmap(lambda update: uplink.stages.client(update, uplink.stages.init_client(one), sender(server))[0])
    total = total_of(uplink, sent(updates).weight, sent(updates).delta.params, jnp.asarray(places), 3, 2)
    at = AT._replace(expected_weight=jnp.float32(K), total_weight=jnp.float32(K))
    return uplink.reduce.finish(total, server.reduce, at)[0].delta.params * K


def test_with_privacy_one_client_moves_the_sum_by_the_bound_at_most() -> None:
    """With 6 bits a step is large: rounded to the nearest, a client would move the sum by more than the bound."""
    values, everyone = np.random.default_rng(0).normal(size=(K, D)).astype(np.float32), np.arange(K, dtype=np.int32)
    whole, nearest = (released(Client(clip=0.05), 0.0, Masked(bits=bits), values, everyone) for bits in (6, 0))
    for client in (2, 7):
        without = np.where(everyone == client, -1, everyone).astype(np.int32)
        gaps = [
            np.linalg.norm(np.float64(sums) - released(Client(clip=0.05), 0.0, Masked(bits=bits), values, without))
            for sums, bits in ((whole, 6), (nearest, 0))
        ]
        assert 0.03 < gaps[0] <= 0.05 * (1 + 1e-6) and 0.0499 < gaps[1] <= 0.05 * (1 + 1e-6)


def test_noise_is_added_to_the_sum_even_if_nobody_came() -> None:
    nobody, zeros = np.full(K, -1, np.int32), np.zeros((K, D), np.float32)
    for how in (Masked(), Integer(range=0.25)):  # the mechanism's bound is the range, whatever was asked for
        np.testing.assert_allclose(released(Client(clip=2.0), 3.0, how, zeros, nobody).std(), 6.0, rtol=0.1)


def test_with_local_privacy_clients_send_their_noise_in_fixed_point() -> None:
    private, _ = LocalSettings(clip=0.5).build(UPLINK, None, 4.0, Population(SIZES))
    uplink = Integer(range=16.0).build(private, K, np.full(K, 7))
    one = Update(Model(jnp.zeros(2000), ()), (), jnp.float32(1))
    sent, _, notes = uplink.stages.client(one, uplink.stages.init_client(one), sender())
    np.testing.assert_allclose(np.std(sent.delta.params), 4.0 * 0.5, rtol=0.1)
    assert notes["secure/clipped"] == 0 and uplink.reduce.name == "integer mean"


# ---- what is refused


def checked(**changes) -> None:
    sim = simulation(classifier(), images(), **changes)
    check_simulation(secure(sim, Integer()), Plan().resolve())


def built(**settings) -> Uplink:
    return Masked().build(replace(UPLINK, **settings).build(), K, SIZES)


class Sparse:
    """A stage of the user's that says nothing of sums."""

    def build(self) -> Stage:
        return Stage("sparse")


REFUSED = {
    "a rule of single updates": (lambda: built(reduce=Median()), "the reduction median needs single updates"),
    "a sum of its own": (lambda: built(reduce=Exact()), "the reduction exact keeps more than a sum; choose"),
    "a stage that does not add up": (lambda: built(stages=(Sparse(),)), "cannot undo sparse of --fed.uplink.stages"),
    "control variates": (lambda: checked(algorithm=Scaffold().build()), "sends more than a change of the model"),
    "an ensemble": (lambda: checked(algorithm=OneShot().build()), "an ensemble needs each client's model"),
    "draws with replacement": (
        lambda: checked(sampler=Uniform(4, replace=True).build(Population(SIZES))),
        "a client drawn twice sends twice its weight",
    ),
    "rounds that overlap": (
        lambda: checked(
            sampler=Everyone().build(Population(SIZES))._replace(max_staleness=1), algorithm=FedBuff().build()
        ),
        "rounds cannot overlap",
    ),
    "a range of nothing": (lambda: Integer(range=0.0), "secure.range=0.0"),
    "too many bits": (lambda: Masked(bits=31), "secure.bits=31: must be 1 to 30"),
    "overflow": (lambda: Integer(bits=29).build(UPLINK.build(), 4, SIZES), "choose 28 or fewer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_summed_is_refused(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        build()


def test_a_run_says_what_it_hides_and_from_whom(tmp_path) -> None:
    config = Experiment(
        Grey(clients=6),
        task=Classify(network=LinearSettings()),
        rounds=1,
        local=LocalTraining(batch=8, optimizer="optax.sgd"),
        sampling=Uniform(4),
        secure=Masked(range=1e-4),
        algorithm=FedAvg(),
        plan=Plan(devices=1, lanes=2, conv="xla", tune_s=0),
    )
    said = list[str]()
    experiment.run(config, tmp_path / "run", say=said.append)
    line = "hides nothing from the host that runs it"
    assert line in costs(config)["hidden"] and any(line in one for one in said if one.startswith("secure: "))
    assert line in report.write([results.load(tmp_path / "run")], tmp_path / "report.html").read_text()
    assert '"uplink/secure/clipped": ' in (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="a sum with a site and one without it show its update"):
        leave_one_out.gains(config, config.data.build(0), 1, said.append)
    with pytest.raises(UserError, match=r"secure.bits=29: the sum of 4 clients could overflow"):
        costs(replace(config, secure=Masked(bits=29)))
