"""The table of three arrangements: its figures by hand, its runs, and its means over seeds."""

import diagnosis_table
import numpy as np
import pytest
from tiny import Grey

from fedjax_mri.data.pooled import Pooled
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.record import TestResult
from fedjax_mri.tasks.classify import Classify


def test_figures_of_four_images_in_two_hospitals() -> None:
    """Of class 0 both are found and one of class 1 is taken for it; all at a confidence of .8."""
    confusion = np.array([[[1.0, 0], [1, 0]], [[1, 0], [0, 1]]])
    bins = np.zeros((2, 15, 3))
    bins[:, 11] = [[2, 1.6, 1], [2, 1.6, 2]]
    tally = Tally(confusion, np.zeros(2), np.full(2, 2.0), bins)
    chances = np.array([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.2, 0.8]])
    test = TestResult(tally, chances, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    wanted = {"accuracy": 0.75, "sensitivity": 0.75, "specificity": 0.75, "macro-F1": (0.8 + 2 / 3) / 2, "AUC": 0.75}
    assert diagnosis_table.figures(test) == pytest.approx({**wanted, "ECE": 0.05})


def test_each_way_is_trained_once_for_each_seed(tmp_path) -> None:
    one = Experiment(
        Grey(clients=2, noise=5.0),
        task=Classify(network=LinearSettings()),
        local=LocalTraining(batch=4),
        sampling=Everyone(),
        rounds=1,
        plan=Plan(tune_s=0, conv="xla", devices=1),
    )
    first = diagnosis_table.found({"local only": one}, 2, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoints/*")}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["local_only_0", "local_only_1"]
    assert diagnosis_table.found({"local only": one}, 2, tmp_path) == first
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoints/*")}


def test_ways_are_one_recipe() -> None:
    ways = diagnosis_table.ways("slices", 7)
    assert list(ways) == ["centralised", "federated", "local only"]
    assert ways["centralised"].data == Pooled(ways["federated"].data) and ways["federated"].data.root == "slices"
    assert ways["local only"].algorithm == LocalOnly() and {one.rounds for one in ways.values()} == {7}
    assert all(one.task == ways["federated"].task for one in ways.values())


def test_the_table_is_of_means_and_deviations() -> None:
    text = diagnosis_table.table({"alone": [{"accuracy": 0.5}, {"accuracy": 0.7}], "once": [{"accuracy": 1.0}]})
    assert text.splitlines()[2:] == ["| alone | 2 | 0.600 ± 0.141 |", "| once | 1 | 1.000 ± nan |"]
