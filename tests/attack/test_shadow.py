"""Shadow models are the runs they stand for; an over-fitted one gives its patients away, and the command says so."""

import functools
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fedjax_mri.attack import command, membership, pool, shadow
from fedjax_mri.attack.command import Choices
from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import contract
from fedjax_mri.data.contract import Federation
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import initial_state
from fedjax_mri.fed.privacy.patient import Patient
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import experiment
from fedjax_mri.run.assemble import assemble, describe, with_fixed_noise
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

PER_PATIENT = 2


@dataclass(frozen=True)
class Noise:
    """Synthetic: noise with labels that mean nothing, two images a patient; three hospitals, of which two hold out."""

    patients: int = 12  # that train at each hospital
    held_out: bool = True

    def build(self, seed: int) -> Federation:
        rng = np.random.default_rng(seed)

        def drawn(hospitals: int):
            patient = np.repeat(np.arange(self.patients), PER_PATIENT)
            count = hospitals * len(patient)
            arrays = {
                "image": rng.integers(0, 256, (count, 12, 12, 1)).astype(np.uint8),
                "label": rng.integers(0, 2, count).astype(np.int32),
                "patient": np.tile(patient, hospitals).astype(np.int32),
            }
            return resident(arrays, np.split(np.arange(count), hospitals)), arrays["label"]

        train, labels = drawn(3)
        owner = np.array([2, -1, 0] if self.held_out else [-1, -1, -1], np.int32)
        counts = np.stack([np.bincount(part, minlength=2) for part in np.split(labels, 3)])
        return Federation(train, {"held out": contract.Test(drawn(3)[0], owner)}, ("a", "b"), counts, synthetic=True)

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()


CONFIG = Experiment(
    data=Noise(),
    task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=4, batch=16, optimizer="optax.sgd", learning_rate=0.2),
    sampling=Everyone(),
    rounds=12,
    evaluate_every=12,
    plan=Plan(devices=1, tune_s=0),
)


@functools.cache
def trained():
    """The data, their patients, who is inside, the classifier and the shadow models."""
    federation = CONFIG.data.build(0)
    patients = pool.gather(federation, ("image", "label"))
    inside = shadow.halves(16, len(patients.member), np.random.default_rng(0))
    said = []
    found = shadow.trained_models(CONFIG, describe(federation), patients, inside, federation.train, said.append)
    assert said == ["round 12/12 of 16 shadow models"]
    return federation, patients, inside, *found


def test_the_pool_has_the_patients_of_training_hospitals() -> None:
    federation, patients, *_ = trained()
    assert len(patients.client) == 5 * 24 and len(patients.member) == 5 * 12
    assert patients.member.sum() == 3 * 12 and patients.held_out == "held out"
    hospital = np.array([patients.client[patients.patient == one][0] for one in range(60)])
    assert (patients.compared == (hospital != 1)).all()
    assert (np.bincount(patients.patient) == PER_PATIENT).all()
    test = federation.tests["held out"].data
    np.testing.assert_array_equal(patients.fields["image"][72:96], test.fetch(0)["image"])
    assert (patients.client[72:96] == 2).all() and not patients.member[patients.patient[72:]].any()
    with pytest.raises(UserError, match="no test set has patients of the hospitals that train"):
        pool.gather(Noise(held_out=False).build(0), ("image", "label"))


def test_a_shadow_model_is_a_run_on_its_patients_alone() -> None:
    federation, patients, inside, _, models = trained()
    plan, number = CONFIG.plan.resolve(), 3
    mine = inside[number][patients.patient]
    parts = [np.flatnonzero(mine & (patients.client == client)) for client in range(3)]
    data = resident(patients.fields, parts)
    sim, root = assemble(CONFIG, describe(federation), data, plan), jax.random.key(CONFIG.seed + 1 + number)
    state, *_ = segments.build(sim, plan, root, 12)(initial_state(sim, plan, root), 12)
    alone, member = (jax.tree.leaves(tree) for tree in (state.server.model.params, models.params))
    for one, several in zip(alone, member, strict=True):
        np.testing.assert_allclose(several[number], one, atol=2e-6)
        assert np.abs(several[number - 1] - one).max() > 1e-3


@pytest.mark.parametrize("unit", ["patient", pytest.param("image", marks=pytest.mark.thorough)])
def test_a_shadow_model_of_a_run_with_privacy_of_patients_has_the_noise_of_the_run(unit) -> None:
    """Half of the patients would need more noise for the same budget."""
    federation, patients, inside, *_ = trained()
    train, described, plan = federation.train, describe(federation), CONFIG.plan.resolve()
    train = train._replace(patients=np.full(3, 12, np.int32) if unit == "patient" else None)
    private = replace(CONFIG, privacy=Patient(epsilon=50.0, unit=unit, views=1), rounds=2)
    private = with_fixed_noise(private, described, train)
    _, models = shadow.trained_models(private, described, patients, inside[:2], train, lambda line: None)
    mine = inside[1][patients.patient]
    parts = [np.flatnonzero(mine & (patients.client == client)) for client in range(3)]
    numbers = np.zeros(len(mine), np.int32)
    for part in parts:
        numbers[part] = np.cumsum(np.diff(patients.patient[part], prepend=patients.patient[part][:1]) != 0)
    data = resident({**patients.fields, "patient": numbers}, parts)
    data = data._replace(patients=np.array([numbers[part].max() + 1 for part in parts], np.int32))
    sim, root = assemble(private, described, data, plan), jax.random.key(CONFIG.seed + 2)
    state, *_ = segments.build(sim, plan, root, 2)(initial_state(sim, plan, root), 2)
    for one, several in zip(*(jax.tree.leaves(x) for x in (state.server.model.params, models.params)), strict=True):
        np.testing.assert_allclose(several[1], one, atol=2e-6)


def test_an_over_fitted_run_gives_its_patients_away_and_shuffled_membership_nothing() -> None:
    _, patients, inside, classifier, models = trained()
    confidence = shadow.confidences(classifier, models, patients)
    real = command.against_each(confidence, inside)
    assert all(one.success.detections[1].low > 0.05 for one in real.values())
    assert real["LiRA"].success.detections[1].low > 0.15 and real["LiRA"].success.auc > 0.9
    rng = np.random.default_rng(1)
    for one in real.values():
        shuffled = [membership.success(one.scores, rng.permutation(one.member)) for _ in range(60)]
        assert np.mean([each.detections[1].low <= 0.01 <= each.detections[1].high for each in shuffled]) > 0.8
        assert np.mean([each.auc for each in shuffled]) == pytest.approx(0.5, abs=0.02)


def test_the_command_writes_figures_and_a_page(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    experiment.run(replace(CONFIG, name="noise"), run)
    given = ["attack", str(run), "--shadows", "4", "--batches", "1", "--trials", "1"]
    assert cli.main(given) == 0
    out, found = capsys.readouterr().out, json.loads((run / "attack.json").read_text())
    assert found["members"]["run"]["LiRA"]["members"] == 24 and found["members"]["models"] == 4
    assert found["members"]["run"]["loss threshold"]["auc"] > 0.8
    assert found["trials"]["1"][0]["psnr"] > 100
    assert "The run: 24 members, 24 others" in out and "Images found in the update of one hospital" in out
    page = (run / "attack.html").read_text()
    assert "synthetic data" in page and "Who was trained on" in page and page.count("<img") == 2


def test_runs_that_an_attack_is_not_for_are_refused(tmp_path) -> None:
    classifies, described = SimpleNamespace(classifier=1), describe(trained()[0])
    for task, image, choices, said in (
        (SimpleNamespace(classifier=None), (12, 12, 1), Choices(), "its task, Classify, has no scores of classes"),
        (classifies, (4, 12, 12, 1), Choices(), "not for volumes; --membership works"),
        (classifies, (8, 12, 1), Choices(), "its images are 8 x 12 pixels, .* needs 11 or more on each side"),
        (classifies, (12, 12, 1), Choices(cohort=9), "--cohort 9: the run has 3 hospitals"),
    ):
        restored = SimpleNamespace(task=task, config=CONFIG, described=described._replace(image=image))
        with pytest.raises(UserError, match=said):
            command.refuse_other_runs(tmp_path, restored, choices)
    for given in ({"shadows": 3}, {"trials": 0}, {"batches": (1, 0)}, {"rounds": -1}):
        with pytest.raises(UserError, match="--" + next(iter(given))):
            Choices(**given).check()
