"""Where a model starts: another run's weights, its head if classes have the same names; a file's; refusals."""

import json
import pathlib
import shutil
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from described import described
from tiny import Grey

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.run import assemble, experiment, prepare, restore, runfolder
from fedjax_mri.run.checkpoint import Checkpoints
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.initial import with_initial_weights
from fedjax_mri.tasks.classify import Classify, balanced_weights

CONFIG = Experiment(
    Grey(clients=2),
    task=Classify(network=CNNSettings(widths=(8,)), class_weights="balanced"),
    local=LocalTraining(batch=4),
    sampling=Everyone(),
    rounds=1,
    plan=Plan(tune_s=0, conv="xla", devices=1),
)


@dataclass(frozen=True)
class Renamed(Grey):
    """The same hospitals, whose classes have other names."""

    def build(self, seed: int) -> Federation:
        return super().build(seed)._replace(classes=("night", "day"))


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("initial") / "first"
    experiment.run(CONFIG, folder)
    return folder


def server(run: pathlib.Path) -> dict[str, np.ndarray]:
    leaves = Checkpoints(run).leaves()
    return {name.removeprefix("server.model.params."): x for name, x in leaves.items() if "model.params" in name}


def test_a_run_goes_on_from_another_with_parts_frozen_and_parts_slow(first, tmp_path) -> None:
    """The norm learns at rate 0 and the convolution is frozen: both stay; and the first run may go."""
    source = shutil.copytree(first, tmp_path / "source")
    task = replace(CONFIG.task, frozen=("convs",))
    local = replace(CONFIG.local, rates=(("norms", 0.0),))
    second, said = replace(CONFIG, init_from=str(source), task=task, local=local), list[str]()
    experiment.run(second, tmp_path / "second", say=said.append)
    before, after = server(first), server(tmp_path / "second")
    for name in before:
        assert np.array_equal(before[name], after[name]) == name.startswith(("convs", "norms")), name
    assert not any("it stays" in line for line in said)
    shutil.rmtree(source)
    state = restore.restore(tmp_path / "second").state
    np.testing.assert_array_equal(state.server.model.params["logits"]["kernel"], after["logits.kernel"])


def test_the_head_of_other_classes_is_not_taken(first, tmp_path) -> None:
    own = Classify(network=CONFIG.task.network).build(described((8, 8, 1), 2), Compute())
    drawn = own.init(jax.random.key(3)).params
    for classes, taken in ((("dark", "bright"), True), (("night", "day"), False)):
        params = with_initial_weights(str(first), classes, own).init(jax.random.key(3)).params
        np.testing.assert_array_equal(params["convs"][0]["kernel"], server(first)["convs.0.kernel"])
        head = server(first)["logits.kernel"] if taken else drawn["logits"]["kernel"]
        np.testing.assert_array_equal(params["logits"]["kernel"], head)
    said = list[str]()
    prepare.prepare(replace(CONFIG, data=Renamed(2), init_from=str(first)), tmp_path / "renamed", said.append)
    assert f"{first}: logits: of other classes: it stays" in said


def test_a_file_starts_a_run(tmp_path) -> None:
    """By the rules of nets/weights.py, whose tests say more."""
    torch = pytest.importorskip("torch")
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "net.pt")
    task = Classify(network=ResNetSettings(norm="batch", width=8))
    with pytest.raises(UserError, match=r"net.pt: has no conv1.weight"):
        with_initial_weights(str(tmp_path / "net.pt"), ("a", "b"), task.build(described((32, 32, 1), 2), Compute()))


@pytest.mark.parametrize(
    ("widths", "says"),
    [((16,), r"params.convs.0.kernel, here of shape .*16\), has shape .*8\) there"), ((8, 8), "does not travel there")],
)
def test_a_run_of_another_network_is_refused(first, widths, says) -> None:
    other = Classify(network=CNNSettings(widths=widths)).build(described((8, 8, 1), 2), Compute())
    with pytest.raises(UserError, match=says) as caught:
        with_initial_weights(str(first), ("dark", "bright"), other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("source", "says"), [("absent.pt", "no such file"), (".", "no checkpoints there")])
def test_what_is_not_there_is_named(tmp_path, monkeypatch, source, says) -> None:
    monkeypatch.chdir(tmp_path)
    task = CONFIG.task
    with pytest.raises(UserError, match=says):
        with_initial_weights(source, ("a",), Classify(network=task.network).build(described((8, 8, 1), 2), Compute()))


def test_balanced_weights_count_the_labels_of_all_hospitals(first) -> None:
    """n / (classes n_c): a mean of 1 over examples; they are known again when the run is judged."""
    labels = json.loads((first / "run.json").read_text())["labels"]
    assert labels == CONFIG.data.build(CONFIG.seed).labels.sum(0).tolist()
    assert restore.restore(first).described == assemble.describe(CONFIG.data.build(CONFIG.seed))
    weights = balanced_weights(labels)
    assert weights == pytest.approx([sum(labels) / (2 * n) for n in labels])
    assert np.average(weights, weights=labels) == pytest.approx(1)
    assert runfolder.read_config(first).task.class_weights == "balanced"
