"""What comes after rounds: whose model is judged, ensembles, distillation, fine-tuning; and a run with all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratics import (
    ALONE,
    EPOCHS,
    QUADRATIC,
    ROOT,
    SIZES,
    UNEQUAL,
    B,
    D,
    four,
    left,
    noise,
    ragged,
    run,
    three_rounds,
    together,
)
from simulations import plain_client

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.resident import resident, whole
from fedjax_mri.fed.after import ensemble, finetune
from fedjax_mri.fed.algorithms.ditto import Ditto
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedper import FedPer
from fedjax_mri.fed.algorithms.oneshot import OneShot
from fedjax_mri.fed.attack.duplicates import Duplicates
from fedjax_mri.fed.attack.labelflip import LabelFlip
from fedjax_mri.fed.attack.poison import poisoned
from fedjax_mri.fed.client.local import ClientStart
from fedjax_mri.fed.engine import evaluate
from fedjax_mri.fed.engine import rounds as engine
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, draw_cohort, init_state, place_state
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run import experiment, runfolder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.task import Model


def chances(model: Model, test: Test, client: int) -> np.ndarray:
    batch = test.data.read(test.data.store, jnp.int32(client), jnp.arange(test.data.sizes[client], dtype=jnp.int32))
    return np.asarray(QUADRATIC.predict(model.params, model.carry, batch))


def test_ditto_is_judged_by_personal_models_and_elsewhere_by_the_shared_one() -> None:
    sim, state, test = four(Ditto(0.1)), three_rounds(Ditto(0.1)), noise(3, 4)
    test = test._replace(owner=np.array([2, -1, 0, -1], np.int32))
    found = evaluate.build(sim.task, ALONE, {"": test})(state)[""].kept["predictions"].reshape(4, 3, -1)
    for client, owner in enumerate(test.owner):
        kept, shared = state.clients.model.params["personal"], state.server.model.params["shared"]
        model = Model(shared if owner < 0 else trees.take(kept, int(owner)), {})
        np.testing.assert_allclose(found[client], chances(model, test, client), rtol=1e-4, atol=1e-6)


def test_an_ensemble_predicts_the_mean_of_its_members() -> None:
    sim, state, test = four(OneShot(), cohort=3), run(four(OneShot(), cohort=3), 1), noise(5, 2)
    (judged,) = ensemble.evaluate_ensemble(sim, ALONE, {"": test}, state).values()
    trained = np.flatnonzero(np.asarray(state.clients.rounds))
    assert len(trained) == 3
    members = [trees.take(state.clients.state, int(k)) for k in trained]
    wanted = np.concatenate([np.mean([chances(one, test, k) for one in members], 0) for k in range(2)])
    np.testing.assert_allclose(judged.kept["predictions"], wanted, rtol=1e-4, atol=1e-6)
    nll = -np.log(wanted[np.arange(10), np.asarray(judged.kept["truth"])])
    np.testing.assert_allclose(judged.metrics.nll, nll.reshape(2, 5).sum(1), rtol=1e-4)


def test_one_shot_clients_start_from_the_first_model_in_every_round() -> None:
    """The server's model is the mean, weighted, of all it has been sent; each is where FedAvg's first round ends."""
    sim = four(OneShot(), cohort=2)
    state = run(sim, 5)
    x = np.asarray(together(init_state(sim, ROOT).server.model.params), np.float64)
    ends = x + np.einsum("kij,kj->ki", np.eye(D) - left(EPOCHS), B - x)
    sent = np.concatenate([np.asarray(draw_cohort(sim, ROOT, jnp.int32(round)).client) for round in range(5)])
    mean = np.average(ends[sent], axis=0, weights=UNEQUAL[sent])
    np.testing.assert_allclose(together(state.server.model.params), mean, rtol=1e-4, atol=1e-5)


def test_a_student_learns_what_the_ensemble_predicts() -> None:
    sim, images = four(OneShot()), noise(8, 5).data
    state = run(sim, 1)
    settings = ensemble.Distil(source=Phantom(), epochs=60, batch=8, learning_rate=0.03)
    student = ensemble.distil(sim, ALONE, settings, images, state, ROOT)
    test = Test(images, np.full(5, -1, np.int32))
    (taught,) = ensemble.evaluate_ensemble(sim, ALONE, {"": test}, state).values()

    def distance(state: State) -> float:
        found = evaluate.build(sim.task, ALONE, {"": test})(state)[""].kept["predictions"]
        return float(np.mean(np.sum(taught.kept["predictions"] * np.log(taught.kept["predictions"] / found), -1)))

    assert distance(student) < 0.1 * distance(init_state(sim, ROOT))
    assert distance(student) < distance(state)  # closer than the mean of models
    jax.tree.map(np.testing.assert_array_equal, student.clients, state.clients)


@pytest.mark.parametrize("where", ["device", "host"])
def test_fine_tuning_equals_a_plain_loop(where: str) -> None:
    """Two epochs, as in training, from the server's model on its owner's examples; client 1 has none.

    The limit of local steps in a round does not cut them.
    """
    sim = ragged(FedPer())
    sim = sim._replace(local=sim.local._replace(max_steps=1))
    state, plan = run(sim, 2), dataclasses.replace(ALONE, clients=where)
    owner = np.array([4, 1, 2, 2], np.int32)
    test = noise(3, 4)._replace(owner=owner)
    (judged,) = finetune.evaluate_finetuned(sim, plan, {"a": test}, 2, place_state(plan, state), ROOT).values()
    found = judged.kept["predictions"].reshape(4, 3, -1)
    sub = finetune.simulation_of(sim, np.array([1, 2, 4]), 2)
    sub = sub._replace(data=sub.data._replace(store=whole(sub.data)), local=sim.local._replace(max_steps=None))
    for client, one in enumerate(owner):
        model = trees.join(state.server.model, trees.take(state.clients.model, int(one)))
        start = ClientStart(model, engine.ServerState(Model({}, {}), ()), ())
        if SIZES[one]:
            model = plain_client(sub, state, start, {2: 1, 4: 2}[int(one)], ROOT)[0]
        np.testing.assert_allclose(found[client], chances(model, test, client), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fetched", [False, True])
def test_clients_are_fine_tuned_on_what_they_trained_on(fetched: bool) -> None:
    """An attacker on its copies and with its labels turned round, an honest one on all that it has."""
    numbers = np.arange(24, dtype=np.int32)
    arrays = {"image": numbers.astype(np.float32), "label": numbers % 6}
    examples = resident(arrays, np.split(numbers, 4))
    data = examples if fetched else examples._replace(store=whole(examples), fetch=None)
    for settings in (Duplicates(clients=(2,), copies=3), LabelFlip(clients=(2,))):
        data = poisoned(data, settings, 6, np.arange(4) == 2)
    data = data._replace(patients=np.array([6, 5, 4, 3], np.int32))
    tuned = finetune.data_of(data, np.array([2, 3], np.int32))
    np.testing.assert_array_equal(tuned.patients, [4, 3])
    step = jnp.arange(6, dtype=jnp.int32)
    for client, (images, labels) in enumerate((([12, 13], [5, 4]), (range(18, 24), range(6)))):
        drawn = tuned.pick(step, jnp.int32(client), jnp.int32(6))
        batch = tuned.shift(tuned.read(whole(tuned), jnp.int32(client), drawn), jnp.int32(client), drawn, jnp.int32(0))
        assert sorted(set(np.asarray(batch["image"]).tolist())) == list(images)
        assert sorted(set(np.asarray(batch["label"]).tolist())) == sorted(labels)


def test_sites_without_an_owner_are_not_fine_tuned() -> None:
    sim = four(FedAvg())
    elsewhere = noise(3, 2)._replace(owner=np.array([-1, 1], np.int32))
    assert finetune.evaluate_finetuned(sim, ALONE, {"b": elsewhere}, 1, init_state(sim, ROOT), ROOT) == {}


# ---- a run


SMALL = Classify(network=CNNSettings(widths=(8,)))


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Synthetic: bright or dark images, four hospitals."""

    def build(self, seed: int) -> Federation:
        rng = np.random.default_rng(seed)
        label = np.arange(48, dtype=np.int32) % 2
        image = np.clip(rng.normal(60 + 120 * label[:, None, None, None], 30, (48, 8, 8, 1)), 0, 255).astype(np.uint8)
        train = resident({"image": image, "label": label}, np.split(np.arange(48), 4))
        tests = {"own": Test(train, np.arange(4, dtype=np.int32)), "new": Test(train, np.full(4, -1, np.int32))}
        return Federation(train, tests, ("dark", "bright"), np.full((4, 2), 6), synthetic=True)

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()


def test_a_run_ends_with_ensemble_student_and_fine_tuned_models(tmp_path) -> None:
    config = Experiment(
        data=Stripes(),
        task=SMALL,
        local=LocalTraining(epochs=3, batch=4, learning_rate=0.01),
        sampling=Everyone(),
        algorithm=OneShot(),
        rounds=1,
        finetune=finetune.FineTune(epochs=1),
        distil=ensemble.Distil(source=Stripes(), epochs=20, batch=8, learning_rate=0.01),
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
        ({"distil": lambda: ensemble.Distil(epochs=1)}, "give distil.source"),
        ({"finetune": lambda: finetune.FineTune(-1)}, "finetune.epochs=-1"),
    ],
)
def test_bad_last_steps_are_refused(change, says) -> None:
    with pytest.raises(UserError, match=says):
        Experiment(data=Stripes(), **{name: make() for name, make in change.items()})


def test_distillation_needs_an_ensemble(tmp_path) -> None:
    distil = ensemble.Distil(source=Stripes(), epochs=1)
    config = Experiment(data=Stripes(), task=SMALL, sampling=Everyone(), distil=distil)
    with pytest.raises(UserError, match=r"choose --fed\.algorithm oneshot"):
        experiment.run(config, tmp_path / "run", say=lambda line: None)
