"""Differential privacy of clients: the accountant's figures, the mechanism against arithmetic, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, classifier, images, linear, simulation

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, check_simulation, initial_state
from fedjax_mri.fed.privacy import accounting, banded
from fedjax_mri.fed.privacy.accounting import Release
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.privacy.local import LocalSettings
from fedjax_mri.fed.privacy.mechanism import beside_count
from fedjax_mri.fed.sampling import Cyclic, Everyone, Poisson, Population, Uniform
from fedjax_mri.fed.uplink.contract import Uplink
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.settings import UplinkSettings

ROOT = jax.random.key(5)
NOBODY = np.zeros(9, np.int32)


def private(settings: Client | LocalSettings, noise: float, **changes) -> Simulation:
    """A simulation with the uplink of some settings of privacy."""
    sim = simulation(linear(classes=10), images(), **changes)
    uplink, local = settings.build(UplinkSettings(), sim.local, noise, Population(SIZES))
    return sim._replace(uplink=uplink, local=local)


def moved(sim: Simulation, devices: int = 1, lanes: int = 2, rounds: int = 1) -> np.ndarray:
    """The change of the server's model in some rounds, as one vector."""
    plan = Plan(devices=devices, lanes=lanes).resolve()
    state = initial_state(sim, plan, ROOT)
    before = jax.device_get(state.server.model.params)
    after, *_ = segments.build(sim, plan, ROOT, rounds)(state, rounds)
    change = trees.subtract(jax.device_get(after.server.model.params), before)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)])


# ---- the accountant


@pytest.mark.parametrize(
    ("release", "times", "delta", "epsilon"),
    [
        (Release(1.1, 256 / 60000, 60000, 400), 14062, 1e-5, 2.3817),
        (Release(1.0), 1, 1e-5, 4.377178),
        (Release(1.0, 0.05, 500, 80), 1000, 1e-4, 9.618),
        (Release(1.0, 0.05, 1000, 60), 200, 1e-5, 11.0085),
        (Release(1.0, 0.05, 1000, 80), 200, 1e-5, 4.806),
        (Release(1.0, 0.05, 1000, 100), 200, 1e-5, 4.766),
        (Release(2.0), 4, 1e-5, 4.377178),
        (Release(1.0), 0, 1e-5, 0.0),
    ],
)
def test_epsilon_is_the_published_one(release: Release, times: int, delta: float, epsilon: float) -> None:
    np.testing.assert_allclose(accounting.epsilon(release, times, delta), epsilon, rtol=1e-4)


@pytest.mark.parametrize("budget", [0.5, 8.0])
@pytest.mark.parametrize("sampler", [Poisson(0.05), Everyone(), Cyclic(50)], ids=str)
def test_the_noise_of_a_budget_spends_it_and_no_more(budget: float, sampler) -> None:
    population = Population(np.ones(1000, np.int32), rounds=60)
    found = Client(epsilon=budget).guarantee(sampler.build(population), population)
    assert 0.999 * budget < found.epsilon(60) <= budget
    assert found.epsilon(0) == 0 and found.epsilon(20) < found.epsilon(60)
    told = Client(epsilon=budget, noise=found.noise).guarantee(sampler.build(population), population)
    assert told.epsilon(60) == found.epsilon(60)


def test_a_cycle_costs_only_the_rounds_in_which_a_client_takes_part() -> None:
    population = Population(np.ones(100, np.int32), rounds=20)
    found = Client(epsilon=0.0, noise=2.0, bands=5).guarantee(Cyclic(20).build(population), population)
    np.testing.assert_allclose(found.epsilon(20), 4.377178, rtol=1e-6)  # four times, so sigma 2 / sqrt(4)


def test_more_rounds_than_the_budget_has_are_refused() -> None:
    population = Population(np.ones(100, np.int32), rounds=20)
    with pytest.raises(UserError, match=r"privacy.epsilon=8.0: 20 rounds with noise multiplier 1 spend .* fewer"):
        Client(noise=1.0).guarantee(Everyone().build(population), population)


# ---- the mechanism


def test_without_one_client_the_release_moves_by_the_bound_at_most() -> None:
    """The leave-one-out test: the sum of clipped updates over the constant number of clients."""
    settings = Client(clip=0.05)
    everyone = moved(private(settings, 0.0), 2)
    without_one = Everyone(2).build(Population(SIZES))._replace(rate=1.0, participation=None)  # by the same number
    other = moved(private(settings, 0.0, sampler=without_one), 2)
    gap = float(np.linalg.norm(everyone - other)) * len(SIZES)
    assert 0.049 < gap < 0.05 * (1 + 1e-4)


def test_noise_is_added_once_even_if_nobody_came() -> None:
    """Its standard deviation is noise times bound over the clients of an average cohort, on any number of devices."""
    sim = private(Client(clip=2.0), 3.0, sampler=Poisson(0.5).build(Population(SIZES)))
    sim = sim._replace(data=sim.data._replace(sizes=NOBODY))
    noise = moved(sim, 8)
    wanted = 3.0 * 2.0 / (0.5 * len(SIZES))
    assert noise.size > 500
    np.testing.assert_allclose(noise.std(), wanted, rtol=0.1)
    np.testing.assert_allclose(noise, moved(sim, 1), rtol=1e-6)


def test_noise_of_two_rounds_differs() -> None:
    sim = private(Client(clip=1.0), 1.0)
    sim = sim._replace(data=sim.data._replace(sizes=NOBODY))
    one, two = moved(sim), moved(sim, rounds=2)
    assert abs(np.corrcoef(one, two - one)[0, 1]) < 0.15


def test_correlated_noise_is_what_the_matrices_say() -> None:
    """C C^-1 Z = Z: the recursion inverts the banded matrix, whose columns have norm 1."""
    bands, rounds = 4, 12
    matrix = sum(c * np.eye(rounds, k=-j) for j, c in enumerate(banded.coefficients(bands)))
    assert np.linalg.norm(matrix, axis=0).max() == pytest.approx(1)
    fresh = np.random.default_rng(0).normal(size=(rounds, 50)).astype(np.float32)
    earlier, found = jnp.zeros((bands - 1, 50)), []
    for z in fresh:
        noise, earlier = banded.correlate(bands, jnp.asarray(z), earlier)
        found.append(np.asarray(noise, np.float64))
    np.testing.assert_allclose(matrix @ np.stack(found), fresh, atol=1e-4)
    error = lambda inverse: np.linalg.norm(np.tril(np.ones((rounds, rounds))) @ inverse)  # noqa: E731
    assert error(np.linalg.inv(matrix)) < 0.8 * error(np.eye(rounds)) * np.linalg.norm(matrix[:, 0])


def test_the_count_and_the_sum_spend_together_what_was_accounted() -> None:
    """Two Gaussian mechanisms: 1 / z^2 = 1 / z_sum^2 + 1 / (2 sigma_count)^2."""
    np.testing.assert_allclose(beside_count(1.0, 5.0) ** -2 + 10.0**-2, 1.0)


def test_an_update_that_is_not_finite_counts_as_zero() -> None:
    sim = private(Client(clip=0.05), 0.0)
    broken = sim._replace(local=sim.local._replace(schedule=lambda round: jnp.float32(np.inf)))
    assert np.all(moved(broken) == 0)


def test_clients_add_their_own_noise() -> None:
    """The mean of n clients has the noise of one over sqrt(n); only those with examples send something."""
    sim = private(LocalSettings(clip=0.5), 4.0)
    noise = moved(sim) - moved(private(LocalSettings(clip=0.5), 0.0))
    np.testing.assert_allclose(noise.std(), 4.0 * 0.5 / np.sqrt(np.sum(SIZES > 0)), rtol=0.1)


# ---- what would break the guarantee is refused


def in_population(settings: Client, sampler, rounds: int = 10):
    population = Population(np.ones(100, np.int32), rounds=rounds)
    return settings.guarantee(sampler.build(population), population)


def checked(**changes) -> None:
    sim = private(Client(), 1.0, **{key: value for key, value in changes.items() if key != "task"})
    check_simulation(sim._replace(**{key: value for key, value in changes.items() if key == "task"}), Plan().resolve())


REFUSED = {
    "fixed-size cohorts": (
        lambda: in_population(Client(), Uniform(5)),
        "no accountant for cohorts drawn like this \\(fixed\\); choose",
    ),
    "repeated draws": (
        lambda: in_population(Client(), Uniform(5, replace=True)),
        "no accountant for .* \\(replacement\\)",
    ),
    "bands without a cycle": (lambda: in_population(Client(bands=2), Poisson(0.1)), "needs clients in a fixed cycle"),
    "bands beyond the cycle": (lambda: in_population(Client(bands=6), Cyclic(20)), "comes again after 5 rounds"),
    "a cohort too small to count": (
        lambda: in_population(Client(epsilon=0.5, quantile=0.5), Poisson(0.05)),
        "counting them spends all",
    ),
    "a reduction of single updates": (
        lambda: Client().build(UplinkSettings(reduce=Median()), None, 1.0, Population(SIZES)),
        "in place of the reduction median; choose --fed.uplink.reduce mean",
    ),
    "control variates": (lambda: checked(algorithm=Scaffold().build()), "sends more than a change of the model"),
    "BatchNorm that travels": (lambda: checked(task=classifier(norm="batch")), 'choose a network with norm="group"'),
    "a negative budget": (lambda: Client(epsilon=-1.0), "privacy.epsilon=-1.0"),
    "no budget and no noise": (lambda: Client(epsilon=0.0), "give a budget, or privacy.noise"),
    "a delta above one": (lambda: Client(delta=1.5), "privacy.delta=1.5"),
    "a negative noise": (lambda: Client(noise=-1.0), "privacy.noise=-1.0"),
    "a clip of nothing": (lambda: Client(clip=0.0), "privacy.clip=0.0"),
    "no bands": (lambda: Client(bands=0), "privacy.bands=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_the_guarantee_cannot_be_built(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        build()


def test_stages_of_the_user_come_before_the_clip() -> None:
    from fedjax_mri.fed.uplink.stages.clip import Clip

    uplink, _ = Client().build(replace(UplinkSettings(), stages=(Clip(3.0),)), None, 1.0, Population(SIZES))
    assert isinstance(uplink, Uplink) and uplink.stages.name == "clip > private clip"
    assert uplink.stages.sensitivity(np.inf) == 1.0 and uplink.empty_round == "release"
