"""Audits of private runs: bounds as published, canaries that leave the model alone, and faults that they notice."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from simulations import SIZES
from test_patient import private as private_patients
from test_privacy import ROOT, moved, private

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import initial_state
from fedjax_mri.fed.privacy import accounting, bounds, canaries, canary_patients, per_patient
from fedjax_mri.fed.privacy.accounting import Release
from fedjax_mri.fed.privacy.canary_patients import watch_hospital
from fedjax_mri.fed.privacy.canary_updates import audit_updates
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.privacy.local import LocalSettings, noisy
from fedjax_mri.fed.privacy.patient import Patient
from fedjax_mri.fed.privacy.per_patient import CLIENT, RATE, private_gradient
from fedjax_mri.fed.sampling import Cyclic, Everyone, Poisson, Population
from fedjax_mri.fed.uplink.contract import Aggregate, RoundContext, Update, Uplink
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import clip
from fedjax_mri.run.train import privacy_figures

EVEN = norm.ppf(np.linspace(0, 1, 10_000, endpoint=False) + 1 / 20_000)


@pytest.mark.parametrize(
    ("shift", "test", "epsilon"),
    [
        (1.0, bounds.one_run_gaussian, 2.164749),
        (2.0, bounds.one_run_gaussian, 4.7218075),
        (4.0, bounds.one_run_gaussian, 9.133752),
        (4.0, bounds.one_run, 4.395568),
    ],
)
def test_bounds_are_the_published_ones(shift: float, test, epsilon: float) -> None:
    np.testing.assert_allclose(
        bounds.lower_bound(bounds.guesses_at_thresholds(EVEN + shift, EVEN), 1e-6, 0.05, test), epsilon, rtol=1e-5
    )


def test_scores_that_say_nothing_bound_nothing() -> None:
    even, zeros = (EVEN[::2], EVEN[1::2]), (np.zeros(500), np.zeros(500))
    for several in (
        bounds.guesses_at_thresholds(*even),
        bounds.guesses_of_shares(*even, (0.1, 0.3)),
        bounds.guesses_of_shares(*zeros, (0.1, 0.3)),
    ):
        assert bounds.lower_bound(several, 1e-6, 0.05, bounds.one_run_gaussian) == 0


def test_the_shift_of_a_gaussian_mechanism_is_that_of_the_accountant() -> None:
    shift = bounds.gaussian_shift(accounting.epsilon(Release(0.5), 1, 1e-5), 1e-5)
    np.testing.assert_allclose(shift, 2.0, rtol=1e-4)


def test_an_audited_run_trains_the_same_model() -> None:
    sampler = Poisson(0.5).build(Population(SIZES))
    plain, audited = (
        moved(private(Client(clip=0.5, audit=count), 1.0, sampler=sampler), rounds=2) for count in (0, 40)
    )
    np.testing.assert_allclose(plain, audited, atol=2e-5)
    assert np.linalg.norm(plain) > 0.1


# ---- many repeats of a mechanism without clients

DELTA, EXPECTED = 1e-5, 50.0  # clients of an average cohort
SMALL = {"count": 200, "repeats": 1000, "rounds": 4, "rate": 0.5}
STRONG = {"count": 3000, "repeats": 8, "rounds": 1, "rate": 1.0}


def as_it_is(uplink: Uplink) -> Uplink:
    return uplink


def lower_bounds(
    noise: float,
    claimed: float,
    fault: Callable[[Uplink], Uplink] = as_it_is,
    *,
    count: int,
    repeats: int,
    rounds: int,
    rate: float,
) -> np.ndarray:
    """Lower bounds [repeats] from runs whose noise multiplier is `noise`, scored as if it were `claimed`."""
    uplink = Client(noise=noise).build(UplinkSettings(), None, noise, Population(SIZES))[0]
    uplink = canaries.with_canaries(fault(uplink), count, claimed)
    sent = Update(jnp.zeros(count), (), jnp.float32(1))

    def run(key: jax.Array) -> canaries.Canaries:
        def step(state, number: jax.Array):
            total = jnp.float32(EXPECTED / rate)
            at = RoundContext(number, jax.random.fold_in(key, number), total, jnp.float32(EXPECTED))
            return uplink.reduce.finish(uplink.reduce.zero(sent, 1), state, at)[1], ()

        start = uplink.reduce.init(sent)
        flipped = jax.random.bernoulli(jax.random.fold_in(key, 99), 0.5, (count,))
        start = start._replace(canaries=start.canaries._replace(inside=flipped))
        return jax.lax.scan(step, start, jnp.arange(rounds))[0].canaries

    found = jax.device_get(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(7), repeats)))
    return np.array([canaries.lower_bound(jax.tree.map(lambda x, i=i: x[i], found), DELTA) for i in range(repeats)])


def spent(noise: float, rounds: int, rate: float) -> float:
    return accounting.epsilon(Release(noise, rate, 100, 100), rounds, DELTA)


def test_the_lower_bound_is_below_the_upper_one_as_often_as_promised() -> None:
    """In 1,000 repeats it may be above in 5 %, and those that took part are noticed."""
    found = lower_bounds(1.0, 1.0, **SMALL)
    assert np.mean(found > spent(1.0, SMALL["rounds"], SMALL["rate"])) <= 0.05 and np.mean(found > 0) > 0.9


def test_with_3000_canaries_the_lower_bound_is_above_half_of_the_upper_one() -> None:
    assert 0.5 < np.median(lower_bounds(1.0, 1.0, **STRONG)) / spent(1.0, 1, 1.0) < 1


def divisor_of_those_who_came(uplink: Uplink) -> Uplink:
    """Noise of the mean in place of noise of the sum: too little by the size of the cohort."""
    reduce = uplink.reduce

    def finish(total, state, at):
        quiet, after = reduce.finish(total, state, at)
        exact = jax.tree.map(lambda x: state.bound / at.expected_weight * x, total.delta)
        noise = jax.tree.map(lambda a, b: (a - b) / at.expected_weight, quiet.delta, exact)
        return quiet._replace(delta=jax.tree.map(jnp.add, exact, noise)), after

    return uplink._replace(reduce=reduce._replace(finish=finish))


def no_clip(uplink: Uplink) -> Uplink:
    """Updates are divided by the bound and not clipped."""

    def client(update, state, sender):
        delta = jax.tree.map(lambda x: x / sender.server.reduce.bound, update.delta)
        return update._replace(delta=delta), state, {}

    return uplink._replace(stages=uplink.stages._replace(client=client, parts=None))


def weight_after_clip(uplink: Uplink) -> Uplink:
    """Updates are weighted by numbers of examples once they are clipped."""
    add = uplink.reduce.add
    weighted = lambda total, updates, places: add(total, updates._replace(delta=9.0 * updates.delta), places)  # noqa: E731
    return uplink._replace(reduce=uplink.reduce._replace(add=weighted))


FAULTS = {
    "noise of the mean": (1.0, divisor_of_those_who_came),
    "no clip": (1.0, no_clip),
    "weight after clip": (1.0, weight_after_clip),
    "a third of the noise": (1 / 3, as_it_is),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_mechanism_is_noticed(name: str) -> None:
    """The lower bound passes what the accountant claims, epsilon 4.38, in most repeats."""
    noise, fault = FAULTS[name]
    assert np.mean(lower_bounds(noise, 1.0, fault, **STRONG) > spent(1.0, 1, 1.0)) > 0.9


def test_what_cannot_be_audited_is_a_line() -> None:
    population = Population(np.ones(100, np.int32), rounds=4)
    with pytest.raises(UserError, match=r"privacy.audit: canaries come by chance .* choose --fed.sampling poisson"):
        Client(audit=10).guarantee(Cyclic(20).build(population), population)
    with pytest.raises(UserError, match=r"privacy.audit=9000: an update has 50 entries"):
        canaries.new_canaries(9000, 50)
    with pytest.raises(UserError, match=r"privacy.audit=-1"):
        replace(Client(), audit=-1)


# ---- canaries among patients


def patients_run(count: int, rounds: int) -> tuple[np.ndarray, dict[str, float]]:
    """The server's model after some rounds of one private step, and what the run says of its privacy."""
    settings = Patient(epsilon=0.0, noise=1.0, clip=0.5, audit=count)
    sim = private_patients(settings, 1.0)
    population = Population(SIZES, np.minimum(SIZES, 1), batch=50, rounds=rounds, patients=sim.data.patients)
    sim = sim._replace(guarantee=settings.guarantee(Everyone().build(population), population))
    plan = Plan(devices=1, lanes=2).resolve()
    after, *_ = segments.build(sim, plan, ROOT, rounds)(initial_state(sim, plan, ROOT), rounds)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(after.server.model.params))])
    return flat, privacy_figures(sim, after)


def test_an_audited_run_of_patients_trains_the_same_model_and_bounds_its_epsilon() -> None:
    plain, figures = patients_run(0, 3)
    audited, bounded = patients_run(600, 3)
    np.testing.assert_array_equal(plain, audited)
    assert "epsilon_lower" not in figures and 0.3 * figures["epsilon"] < bounded["epsilon_lower"] < figures["epsilon"]


def patient_bounds(noise: float = 1.0, rate: float = 1.0, count: int = 3000, steps: int = 1, repeats: int = 8):
    """Lower bounds [repeats] of steps with a noise multiplier, scored as if it were 1."""
    watch = watch_hospital(3, count, 0.5, 1.0)
    gradient = private_gradient(0.5, noise, 1, 1, watch)
    loss = lambda params, *_: (params.sum(), ((), ()))  # noqa: E731
    fields = {"weight": 1.0, per_patient.EXPECTED: 10.0, RATE: rate, CLIENT: 3}
    batch = {name: jnp.full((1,), value) for name, value in fields.items()}

    def run(key: jax.Array) -> canaries.Canaries:
        inside = jax.random.bernoulli(jax.random.fold_in(key, 99), 0.5, (count,))
        own = canaries.new_canaries(count, count)._replace(inside=inside)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(canary_patients, "new_canaries", lambda *_: own)
            each = [gradient(loss, jnp.zeros(count), batch, jax.random.fold_in(key, n)) for n in range(steps)]
        return own._replace(score=sum(metrics.seen for _, (_, metrics) in each))

    found = jax.device_get(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(7), repeats)))
    return np.array([canaries.lower_bound(jax.tree.map(lambda x, i=i: x[i], found), DELTA) for i in range(repeats)])


def test_the_lower_bound_of_patients_is_below_the_upper_one_as_often_as_promised() -> None:
    found = patient_bounds(rate=0.5, count=200, steps=4, repeats=1000)
    assert np.mean(found > spent(1.0, 4, 0.5)) <= 0.05 and np.mean(found > 0) > 0.9


@pytest.mark.parametrize("fault", ["none", "a third of the noise", "no clip"])
def test_the_audit_of_patients_notices_faults(fault: str, monkeypatch) -> None:
    if fault == "no clip":
        monkeypatch.setattr(canary_patients, "clipped", lambda grads, clip: grads)
    found = np.median(patient_bounds(1 / 3 if fault == "a third of the noise" else 1.0)) / spent(1.0, 1, 1.0)
    assert 0.5 < found < 1 if fault == "none" else found > 1


def test_other_hospitals_show_nothing_of_the_canaries() -> None:
    batch = {name: jnp.ones(1) for name in (RATE, CLIENT)}
    noised = jax.random.normal(jax.random.key(0), (50,))
    seen = watch_hospital(3, 40, 0.5, 1.0)(jnp.zeros(50), noised, batch, jax.random.key(1))
    assert not seen.any() and watch_hospital(1, 40, 0.5, 1.0)(jnp.zeros(50), noised, batch, jax.random.key(1)).all()


# ---- canaries under local privacy


def local_run(count: int) -> tuple[np.ndarray, dict[str, float]]:
    """The server's model after three rounds whose clients add noise, and what the run says of its privacy."""
    settings, population = LocalSettings(epsilon=0.0, noise=1.0, clip=0.5, audit=count), Population(SIZES, rounds=3)
    sim = private(settings, 1.0, sampler=Everyone().build(population))
    sim = sim._replace(guarantee=settings.guarantee(sim.sampler, population))
    plan = Plan(devices=1, lanes=2).resolve()
    after, *_ = segments.build(sim, plan, ROOT, 3)(initial_state(sim, plan, ROOT), 3)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(after.server.model.params))])
    return flat, privacy_figures(sim, after)


def test_an_audited_run_with_local_noise_trains_the_same_model_and_bounds_its_epsilon() -> None:
    (plain, figures), (audited, bounded) = local_run(0), local_run(600)
    np.testing.assert_array_equal(plain, audited)
    assert "epsilon_lower" not in figures and 0.3 * figures["epsilon"] < bounded["epsilon_lower"] < figures["epsilon"]


def local_bounds(noise: float = 1.0, bound: float = 0.5, count: int = 3000, rounds: int = 1, repeats: int = 8):
    """Lower bounds [repeats] of rounds with this clip and noise, scored as if the clip were .5 and the multiplier 1."""
    stage = audit_updates([clip(bound), noisy(0.5 * noise)], count, 0.5, 1.0)
    zeros, one = jnp.zeros(8), jnp.float32(1)
    aggregate, entry = Aggregate(zeros, (), one, one, one), jnp.arange(count) % 8

    def run(key: jax.Array) -> canaries.Canaries:
        inside = jax.random.bernoulli(jax.random.fold_in(key, 99), 0.5, (count,))
        state = canaries.Canaries(entry, inside, jnp.zeros(count))
        for number in range(rounds):
            at = RoundContext(jnp.int32(number), jax.random.fold_in(key, number), one, one)
            state = stage.server(aggregate, state, at)[1]
        return state

    found = jax.device_get(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(7), repeats)))
    return np.array([canaries.lower_bound(jax.tree.map(lambda x, i=i: x[i], found), DELTA) for i in range(repeats)])


def test_the_lower_bound_of_local_noise_is_below_the_upper_one_as_often_as_promised() -> None:
    found = local_bounds(count=200, rounds=4, repeats=1000)
    assert np.mean(found > spent(1.0, 4, 1.0)) <= 0.05 and np.mean(found > 0) > 0.9


@pytest.mark.parametrize("fault", ["none", "a third of the noise", "no clip"])
def test_the_audit_of_local_noise_notices_faults(fault: str) -> None:
    given = {"a third of the noise": {"noise": 1 / 3}, "no clip": {"bound": 1e9}}.get(fault, {})
    found = np.median(local_bounds(**given)) / spent(1.0, 1, 1.0)
    assert 0.4 < found < 1 if fault == "none" else found > 1
