"""Differential privacy of patients: who is drawn, what one patient moves, the accountant, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simulations import SIZES, classifier, images, images_of_patients, linear, simulation
from test_privacy import moved

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check, labelled
from fedjax_mri.data.combined import combine_clients
from fedjax_mri.data.contract import PATIENT
from fedjax_mri.data.pooled import pool
from fedjax_mri.data.unpaired import with_mr_of_others
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.client.local import Local, step_counts
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, check_simulation
from fedjax_mri.fed.privacy import accounting
from fedjax_mri.fed.privacy.accounting import Release
from fedjax_mri.fed.privacy.patient import Patient
from fedjax_mri.fed.privacy.per_patient import flip_coins, places_of, poisson_patients
from fedjax_mri.fed.sampling import Everyone, Population, Uniform
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.weigh import uniformly
from fedjax_mri.run.config import LocalTraining

ONE_STEP = Local(1, 50, optax.sgd, lambda round: jnp.float32(1.0))  # all patients of any client come


def private(settings: Patient, noise: float = 0.0, **changes) -> Simulation:
    """A simulation whose clients take one private step of plain gradient descent."""
    sim = simulation(linear(classes=10), images_of_patients(), local=ONE_STEP)
    uplink, local = settings.build(UplinkSettings(), sim.local, noise, Population(SIZES, patients=sim.data.patients))
    return sim._replace(**{"uplink": uplink, "local": local, **changes})


# ---- who is drawn


def test_each_patient_is_drawn_by_a_coin_of_its_own() -> None:
    """Over many steps: the mean and the spread of the number who come, and no two patients depend on each other."""
    draw = jax.jit(jax.vmap(lambda key: flip_coins(key, jnp.float32(0.3), jnp.int32(20), 25, 25)))
    chosen, present = jax.device_get(draw(jax.random.split(jax.random.key(0), 4000)))
    came = np.zeros((4000, 25))
    np.put_along_axis(came, chosen, present, 1)
    assert not came[:, 20:].any() and np.all(np.diff(present) <= 0)
    np.testing.assert_allclose(came[:, :20].mean(0), 0.3, atol=0.03)
    np.testing.assert_allclose(came.sum(1).var(), 20 * 0.3 * 0.7, rtol=0.1)
    assert np.abs(np.corrcoef(came[:, :20].T) - np.eye(20)).max() < 0.08


def test_of_more_than_there_is_room_for_a_random_part_comes() -> None:
    draw = jax.jit(jax.vmap(lambda key: flip_coins(key, jnp.float32(1.0), jnp.int32(8), 8, 2)))
    chosen, present = jax.device_get(draw(jax.random.split(jax.random.key(1), 4000)))
    assert present.all()
    np.testing.assert_allclose(np.bincount(chosen.ravel()) / chosen.size, 1 / 8, atol=0.02)


def test_views_are_of_the_patient_alone_and_of_all_his_images() -> None:
    data = images_of_patients()
    read, whose = partial(data.read, data.store, jnp.int32(2)), np.asarray(data.store.fields[PATIENT])[5:22]
    draw = jax.jit(partial(poisson_patients(17, True, 3, 4)(1, 6).draw, read=read))
    seen: dict[int, set[int]] = {}
    for step in range(60):
        examples, fields = draw(jax.random.key(3), jnp.int32(step), jnp.int32(2), jnp.int32(17))
        for views, weight in zip(np.asarray(examples).reshape(-1, 3), np.asarray(fields["weight"]).reshape(-1, 3)):
            if weight[0]:
                assert len(set(whose[views])) == 1 and len(set(views)) == min(3, np.sum(whose == whose[views[0]]))
                seen.setdefault(int(whose[views[0]]), set()).update(views.tolist())
    assert {patient: sorted(own) for patient, own in sorted(seen.items())} == {
        patient: np.flatnonzero(whose == patient).tolist() for patient in range(whose.max() + 1)
    }


# ---- what one patient moves


def test_without_one_patient_the_sum_moves_by_the_bound_at_most() -> None:
    """A patient of three images is left out: his labels are of no class, so that his loss is constant."""
    clip, client = 0.02, 2
    sim = private(Patient(clip=clip, views=3), uplink=simulation(classifier(), images(), weigh=uniformly).uplink)
    fields, first, patients = sim.data.store.fields, 5, int(sim.data.patients[client])
    numbers = fields[PATIENT][first : first + 17]
    patient = int(np.argmax(np.bincount(numbers)))
    label = fields["label"].copy()
    label[first : first + 17][numbers == patient] = 99
    without = sim.data._replace(store=sim.data.store._replace(fields={**fields, "label": label}))
    gap = np.linalg.norm(moved(sim, 2) - moved(sim._replace(data=without), 2))
    gap *= patients * np.sum(SIZES > 0)  # the mean over clients of sums over patients
    assert np.sum(numbers == patient) > 2 and 0.99 * clip < gap < clip * (1 + 1e-3)


def test_noise_is_added_once_for_each_step_and_client() -> None:
    """Its deviation is noise times bound over the patients expected; clients draw noise of their own."""
    clip, sim = 0.5, partial(private, data=images())
    noise = moved(sim(Patient(clip=clip), 8.0)) - moved(sim(Patient(clip=clip), 0.0))
    there, weights = SIZES[SIZES > 0], SIZES[SIZES > 0] / SIZES.sum()
    np.testing.assert_allclose(noise.std(), 8.0 * clip * np.linalg.norm(weights / there), rtol=0.1)


def test_few_local_steps_are_taken_and_paid_for() -> None:
    """`local.steps` bounds what a hospital trains with privacy too, and the accountant sees no more steps."""
    local = LocalTraining(batch=3, steps=2).build(1)
    built = Patient().build(UplinkSettings(), local, 1.0, Population(SIZES, patients=images_of_patients().patients))[1]
    np.testing.assert_array_equal(step_counts(built, np.array([0, 3, 17])), [0, 1, 2])


def test_the_size_of_microbatches_changes_nothing_but_rounding() -> None:
    one, five = (moved(private(Patient(microbatch=size), 1.0)) for size in (1, 5))
    np.testing.assert_allclose(one, five, atol=1e-6)


# ---- the accountant

POPULATION = Population(np.full(3, 60000, np.int32), np.full(3, 20), batch=256, rounds=40)


def test_a_hospital_pays_for_its_own_steps() -> None:
    """A hospital with a tenth of the patients takes a tenth of the steps and spends more."""
    steps = np.array([20, 20, 2])
    several = POPULATION._replace(sizes=np.array([60000, 60000, 6000], np.int32), steps=steps)
    several = several._replace(patients=several.sizes)
    found = Patient(epsilon=0.0, noise=1.1).guarantee(Everyone().build(several), several)
    large = accounting.epsilon(Release(1.1, 256 / 60000, 60000, places_of(256)), 20 * 40, 1e-5)
    small = accounting.epsilon(Release(1.1, 256 / 6000, 6000, places_of(256)), 2 * 40, 1e-5)
    assert small > large > 0
    np.testing.assert_allclose([found.epsilon(40), found.mean(40)], [small, (2 * large + small) / 3], rtol=1e-6)


def test_rounds_without_a_hospital_cost_its_patients_nothing() -> None:
    """By the cohorts that are really drawn: the hospital that came most often is accounted."""
    few = Population(np.full(20, 100, np.int32), np.full(20, 5), batch=10, rounds=12, patients=np.full(20, 100))
    sampler = Uniform(4).build(few)
    came = np.bincount(np.concatenate([sampler.draw(few.key(jnp.int32(r)), jnp.int32(r)).client for r in range(12)]))
    found = Patient(epsilon=0.0, noise=1.0).guarantee(sampler, few)
    release = Release(1.0, 0.1, 100, places_of(10))
    assert found.epsilon(12) == accounting.epsilon(release, 5 * came.max(), 1e-5) and came.max() < 9


def test_the_noise_of_a_budget_keeps_it_at_every_hospital() -> None:
    sizes = np.array([40, 90, 200, 2000], np.int32)
    several = Population(sizes, -(-sizes // 20), batch=20, rounds=10, patients=sizes)
    found = Patient(epsilon=3.0).guarantee(Everyone().build(several), several)
    assert 2.99 < found.epsilon(10) <= 3.0 and 0 < found.mean(10) < 3.0


# ---- whose each image is


def test_sources_say_whose_each_image_is() -> None:
    """Images of a patient are put in a row, however they came; nothing is said where somebody is not known."""
    arrays = {"image": np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1), "label": np.arange(6, dtype=np.int32) % 2}
    examples = labelled.Labelled(arrays, ("a", "b"), np.array([7, 3, 7, 5, 3, 7]), patients=True)
    data = labelled.training_clients(examples, labelled.by_training_client([np.arange(5), np.array([5])]))
    assert data.patients.tolist() == [3, 1]
    assert data.fetch(0)["image"].ravel().tolist() == [0, 2, 1, 4, 3] and data.fetch(0)[PATIENT].tolist() == [
        0,
        0,
        1,
        1,
        2,
    ]
    check.check_patients("these", data)
    assert (
        labelled.training_clients(
            examples._replace(patients=False), labelled.by_training_client([np.arange(6)])
        ).patients
        is None
    )
    broken = data._replace(
        store=data.store._replace(fields={**data.store.fields, PATIENT: np.array([0, 1, 0, 1, 2, 0])})
    )
    with pytest.raises(UserError, match="'patient' of client 0: number its patients from 0"):
        check.check_patients("these", broken)


def test_pooled_and_joined_patients_stay_apart() -> None:
    data = images_of_patients()
    pooled = pool(data)
    found = np.asarray(pooled.read(pooled.store, jnp.int32(0), jnp.arange(SIZES.sum()))[PATIENT])
    assert pooled.patients.tolist() == [data.patients.sum()] and np.isin(np.diff(found, prepend=-1), (0, 1)).all()
    assert found[-1] + 1 == data.patients.sum()
    both = combine_clients([data, images()._replace(patients=SIZES)], [[(0, 2), (1, 3)]], 1)
    whose = both.fetch(0)[PATIENT]
    assert both.patients.tolist() == [data.patients[2] + 3] and np.unique(whose).size == both.patients[0]
    assert combine_clients([data, images()], [[(0, 2), (1, 3)]], 1).patients is None
    assert with_mr_of_others(data).patients is None  # an example is of two patients


# ---- what would break the guarantee is refused


def checked(**changes) -> None:
    check_simulation(private(Patient(), 1.0)._replace(**changes), Plan().resolve())


def nobody_known() -> None:
    Patient().guarantee(Everyone().build(POPULATION), POPULATION)


REFUSED = {
    "BatchNorm": (lambda: checked(task=classifier(norm="batch")), 'choose a network with norm="group"'),
    "BatchNorm at home": (lambda: checked(task=classifier(norm="batch", statistics="local")), "statistics or a pool"),
    "mixup": (lambda: checked(task=classifier(mixup=0.2)), "set --task.mixup 0"),
    "two players": (lambda: checked(task=classifier()._replace(phases=2 * classifier().phases)), "takes 2 gradients"),
    "sums by who came": (lambda: checked(algorithm=Scaffold().build()), "choose --fed.algorithm fedavg"),
    "unknown patients": (nobody_known, "choose --privacy.unit image"),
    "no views": (lambda: Patient(views=0), "privacy.views=0"),
    "empty microbatches": (lambda: Patient(microbatch=0), "privacy.microbatch=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_the_guarantee_cannot_be_built(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        build()


def test_penalties_and_what_follows_a_step_are_admitted() -> None:
    checked(algorithm=FedProx().build())
    checked(task=classifier(weight_decay=0.1))
