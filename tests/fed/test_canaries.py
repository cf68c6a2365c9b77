"""Audits of private runs: bounds as published, canaries that leave the model alone, and faults that they notice."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from simulations import SIZES
from test_privacy import moved, private

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.privacy import accounting, bounds, canaries
from fedjax_mri.fed.privacy.accounting import Release
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.sampling import Cyclic, Poisson, Population
from fedjax_mri.fed.uplink.contract import ServerRound, Update, Uplink
from fedjax_mri.fed.uplink.settings import UplinkSettings

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
    same = EVEN[::2], EVEN[1::2]
    for several in (bounds.guesses_at_thresholds(*same), bounds.guesses_of_shares(*same, (0.1, 0.3))):
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
            at = ServerRound(number, jax.random.fold_in(key, number), total, jnp.float32(EXPECTED))
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
