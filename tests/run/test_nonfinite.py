"""What is not finite: a model that fails its evaluation stops its run; a figure that is undefined stops nothing."""

import json
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Grey

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import DataDescription, Federation
from fedjax_mri.data.contract import Test as SiteTest
from fedjax_mri.fed.attack.signflip import SignFlip
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.report import leave_one_out
from fedjax_mri.report import run as reports
from fedjax_mri.report import study as study_reports
from fedjax_mri.run import checkpoint, experiment, restore, results, runfolder, train
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.study import folder, sweep
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.task import Batch, Carry, Model, Params, Task


@dataclass(frozen=True)
class Failing:
    """A classifier whose predictions, not its losses, are nan after `after` local steps; one figure is undefined."""

    after: float = 1e9

    def build(self, described: DataDescription, compute: Compute) -> Task:
        task = Classify(network=LinearSettings()).build(described, compute)
        (phase,) = task.phases

        def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array):
            value, (_, metrics) = phase.loss(params, {}, batch, key)
            return value, ({"steps": carry["steps"] + 1}, metrics)

        def predict(params: Params, carry: Carry, batch: Batch) -> jax.Array:
            return jnp.where(carry["steps"] > self.after, jnp.nan, task.predict(params, {}, batch))

        return task._replace(
            init=lambda key: Model(task.init(key).params, {"steps": jnp.float32(0)}),
            phases=(phase._replace(loss=loss),),
            evaluate=lambda params, carry, batch: task.evaluate(params, {}, batch),
            predict=predict,
            summary=lambda sums: {**task.summary(sums), "Dice of no lesion": math.nan, "PSNR of equals": math.inf},
            classifier=None,
        )


@dataclass(frozen=True)
class Owned(Grey):
    """The same hospitals, each tested on its own examples."""

    def build(self, seed: int) -> Federation:
        whole = super().build(seed)
        return whole._replace(tests={"own": SiteTest(whole.train, np.arange(self.clients, dtype=np.int32))})


BASE = Experiment(
    data=Grey(),
    task=Failing(1e9),
    local=LocalTraining(epochs=1, batch=2, learning_rate=0.01),
    sampling=Uniform(3),
    rounds=3,
    evaluate_every=1,
    early=Early("train/nll"),
    plan=Plan(devices=1, lanes=2, tune_s=0, members="map"),
)


def silent(line: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> list[float]:
    """The statistic of the model after each round of a run that does not fail."""
    run, found = tmp_path_factory.mktemp("whole") / "run", []
    for rounds in (1, 2):
        experiment.run(replace(BASE, rounds=rounds), run, say=silent)
        found.append(float(checkpoint.Checkpoints(run).leaves()["server.model.carry.steps"]))
    return found


def failing_in(steps: list[float], round: int) -> Experiment:
    return replace(BASE, task=Failing(steps[round - 1] - 0.5))


def test_a_failed_evaluation_stops_a_run_and_nothing_of_it_is_saved(steps, tmp_path) -> None:
    """The message says where to go on from; another folder does, with the same config but for the task."""
    run = tmp_path / "run"
    with pytest.raises(UserError) as told:
        experiment.run(failing_in(steps, 2), run, say=silent)
    assert str(told.value).startswith("round 2: the evaluation is not finite (predictions for ")
    assert "lower local.learning_rate (now 0.01)" in str(told.value)
    assert str(told.value).endswith(f"--out NEW --resume-from {run}") and "round 1 is saved" in str(told.value)
    assert checkpoint.saved_rounds(run) == checkpoint.saved_rounds(run / "best") == [1]
    assert [line["round"] for line in runfolder.read_history(run)] == [0, 1]
    assert not (run / "results.npz").exists()
    experiment.run(replace(BASE, rounds=2), tmp_path / "next", resume_from=run, say=silent)
    assert [line["round"] for line in runfolder.read_history(tmp_path / "next")] == [1, 2]


def test_without_a_checkpoint_the_message_speaks_of_none_and_the_folder_is_taken_again(steps, tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"^round 1: the evaluation .* nothing was saved: .* run the same command again"
    ):
        experiment.run(failing_in(steps, 1), tmp_path / "run", say=silent)
    experiment.run(replace(BASE, rounds=1), tmp_path / "run", say=silent)
    assert checkpoint.saved_rounds(tmp_path / "run") == [1]


def test_a_model_that_fails_before_training_is_not_blamed_on_the_learning_rate(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^round 0, before training: .*; check the weights that it starts from"):
        experiment.run(replace(BASE, task=Failing(-1.0)), tmp_path / "run", say=silent)


@pytest.mark.thorough  # a mistake of cli/test_cli.py
def test_a_training_loss_that_is_not_finite_is_said_to_be_one(tmp_path) -> None:
    hot = replace(BASE, local=replace(BASE.local, optimizer="optax.sgd", learning_rate=1e38))
    with pytest.raises(UserError, match=r"round \d: the training loss is no longer finite; .*\(now 1e\+38\)"):
        experiment.run(hot, tmp_path / "run", say=silent)


def test_a_saved_model_that_fails_is_not_evaluated_in_silence(steps, tmp_path) -> None:
    experiment.run(replace(BASE, rounds=1), tmp_path / "run", say=silent)
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace("1000000000.0", "0.5"))
    with pytest.raises(UserError, match=r"run: the evaluation is not finite .*check its images"):
        restore.evaluate_run(tmp_path / "run", None, silent)


def strict(text: str) -> dict:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_an_undefined_figure_stops_nothing_and_is_null_in_strict_json(tmp_path) -> None:
    """Undefined ones of training and of test sets, and an infinite one; resumed, reported, read again."""
    run = tmp_path / "run"
    for rounds in (1, 2):
        experiment.run(replace(BASE, rounds=rounds), run, say=silent)
    lines = [strict(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    for name in ("train/Dice of no lesion", "new sites/Dice of no lesion", "new sites/PSNR of equals"):
        assert lines[2][name] is None and math.isnan(runfolder.read_history(run)[2][name])
    assert math.isnan(results.history(run)[2].tests["new sites"].pooled["Dice of no lesion"])
    assert reports.write([results.load(run)], run / "report.html").exists()
    strict((run / "timings.json").read_text())


def test_under_attack_another_rule_is_a_remedy_too() -> None:
    assert train.divergence_remedy(BASE) == "lower local.learning_rate (now 0.01)"
    assert "--fed.uplink.reduce" in train.divergence_remedy(replace(BASE, attack=SignFlip()))


def study_of(*after: float) -> Study:
    return Study(replace(BASE, rounds=2), {"task.after": after, "seed": [0]})


def test_a_member_that_fails_its_evaluation_leaves_the_others_alone(steps, tmp_path) -> None:
    """Two in one program: one fails after the second round; the other is as if it had been alone."""
    said: list[str] = []
    failures = sweep.run(study_of(steps[1] - 0.5, 1e9), tmp_path / "study", say=said.append)
    assert any("2 cells in one program, with task.after as its arguments" in line for line in said)
    ((_, why),) = failures.items()
    assert why.startswith("round 2: the evaluation is not finite (predictions for ")
    assert why.endswith("; lower local.learning_rate (now 0.01)")
    (cell,) = folder.finished_cells(tmp_path / "study")
    assert cell.where["task.after"] == 1e9 and [line.round for line in cell.history] == [0, 1, 2]
    assert math.isnan(cell.history[2].tests["new sites"].pooled["Dice of no lesion"])
    for path in (tmp_path / "study" / "cells").iterdir():
        strict(path.read_text())
    assert "new sites/Dice of no lesion" in (tmp_path / "study" / "table.csv").read_text().splitlines()[0]
    assert study_reports.write(tmp_path / "study").exists()


def test_leave_one_out_does_not_compare_with_a_model_that_has_failed(steps) -> None:
    config = replace(failing_in(steps, 2), data=Owned())
    with pytest.raises(UserError, match=r"--leave-one-out, 2 rounds with everyone: the evaluation is not finite"):
        leave_one_out.gains(config, config.data.build(0), 2, silent)
