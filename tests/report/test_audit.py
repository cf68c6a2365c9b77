"""The audit of a small run: figures again from its saved predictions, gains again by plain training without a site."""

import csv
import dataclasses
import pathlib
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fedjax_mri.cli import commands as cli
from fedjax_mri.core import disk, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import contract as client_data
from fedjax_mri.data.contract import Federation
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import ClientRow, initial_state
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.fed.uplink.reductions.krum import MultiKrum
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.report import audit, audit_page, leave_one_out, run_tables
from fedjax_mri.run import assemble, experiment, results, runfolder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.line import SegmentFigures
from fedjax_mri.tasks.classify import Classify

SIZES = np.array([6, 10, 20, 60])


@dataclass(frozen=True)
class Wards:
    """Synthetic: bright and dark pictures; the last and largest site has them the wrong way round."""

    unseen: bool = False

    def build(self, seed: int) -> Federation:
        rng = np.random.default_rng(seed)

        def pictures(sizes: np.ndarray, liars: int):
            labels = rng.integers(0, 2, sizes.sum()).astype(np.int32)
            pixels = rng.normal(90 + 60 * labels[:, None, None, None], 30, (len(labels), 8, 8, 1))
            arrays = {"image": pixels.clip(0, 255).astype(np.uint8), "label": labels.copy()}
            arrays["label"][len(labels) - liars :] ^= 1
            parts = np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1])
            return resident(arrays, parts), np.stack([np.bincount(labels[part], minlength=2) for part in parts])

        train, labels = pictures(SIZES, 60)
        owner = np.full(4, -1, np.int32) if self.unseen else np.array([0, 1, 2, -1], np.int32)
        test = client_data.Test(pictures(np.full(4, 12), 0)[0], owner)
        groups = {"field strength": np.array(["3 T", "1.5 T", "3 T", "1.5 T"])}
        return Federation(train, {"clean": test}, ("dark", "bright"), labels, synthetic=True, groups=groups)

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()


CONFIG = Experiment(
    data=Wards(),
    task=Classify(network=CNNSettings(widths=(4,), hidden=4, norm="batch"), statistics="local"),
    local=LocalTraining(epochs=2, batch=4, learning_rate=0.01),
    sampling=Everyone(),
    rounds=3,
    evaluate_every=3,
    plan=Plan(devices=1, tune_s=0),
)


def silent(line: str) -> None:
    """Says nothing."""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("audit") / "run"
    experiment.run(CONFIG, folder, say=silent)
    return folder


def by_hand(run: pathlib.Path, member: np.ndarray) -> list[float]:
    """Accuracy, macro sensitivity, 1 - ECE and each class's sensitivity over test sites `member`."""
    result = results.load(run).tests["clean"]
    chosen = np.isin(result.client, member)
    probabilities, labels = result.probabilities[chosen].astype(np.float64), result.labels[chosen]
    right, confidence = probabilities.argmax(1) == labels, probabilities.max(1)
    recall = [right[labels == c].mean() for c in (0, 1)]
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    ece = sum(abs(np.sum(confidence[bins == b]) - np.sum(right[bins == b])) for b in range(15)) / len(right)
    return [right.mean(), np.mean(recall), 1 - ece, *recall]


MEMBERS = {
    "site 0": [0],
    "unseen site 3": [3],
    "1.5 T": [1],
    "3 T": [0, 2],
    "1st quarter, smallest": [0],
    "3rd quarter": [2],
}


def test_figures_are_those_of_the_saved_predictions(run) -> None:
    found = {row.name: row for row in audit.audit(run)}
    assert {row.grouping for row in found.values()} == {"site", "size", "dominant label", "field strength"}
    for name, member in MEMBERS.items():
        row = found[name]
        figures = [row.accuracy, row.sensitivity, row.calibration, *row.recall]
        np.testing.assert_allclose(figures, by_hand(run, np.array(member)), atol=1e-5)
        assert (row.sites, row.examples) == (
            len(member),
            12 * len(member),
        ) and row.low < row.accuracy + 1e-6 < row.high + 1e-5
    assert "4th quarter, largest" not in found  # its test set belongs to nobody who trained


def test_spreads_are_over_groups(run) -> None:
    found = audit.audit(run)
    spread = {(grouping, figure): values for _, grouping, figure, values in audit.spreads(found)}
    accuracy = [row.accuracy for row in found if row.grouping == "site"]
    assert spread["site", "accuracy"]["gap"] == pytest.approx(max(accuracy) - min(accuracy))
    jain = np.sum(accuracy) ** 2 / (4 * np.sum(np.square(accuracy)))
    assert spread["site", "accuracy"]["jain"] == pytest.approx(jain)
    assert spread["field strength", "calibration"]["clients"] == 2


def retrained(without: int) -> np.ndarray:
    """Each site's accuracy after training without one, which is known when the program is built."""
    config = dataclasses.replace(CONFIG, sampling=Everyone(without))
    federation, plan, root = config.data.build(config.seed), config.plan.resolve(), jax.random.key(config.seed)
    sim = assemble.assemble(config, assemble.describe(federation), federation.train, plan)
    state, *_ = segments.build(sim, plan, root, 3)(initial_state(sim, plan, root), 3)
    trained = np.arange(4) != without
    own = jax.tree.map(np.asarray, state.clients.model)
    mean = jax.tree.map(lambda x: x[trained].mean(0), own)
    if without >= 0:
        own = trees.put(jax.tree.map(jnp.asarray, own), np.array([without]), jax.tree.map(lambda x: x[None], mean))
    state = state._replace(clients=state.clients._replace(model=own))
    metrics = evaluate.build(sim.task, plan, federation.tests)(state)["clean"].metrics
    return np.asarray(sim.task.score(metrics))[:3]


def test_gains_are_those_of_training_without(run) -> None:
    gain = leave_one_out.gains(CONFIG, CONFIG.data.build(CONFIG.seed), 3, silent)
    assert gain.shape == (4, 4) and np.isnan(gain[:, 3]).all()
    np.testing.assert_allclose(gain[2, :3], retrained(-1) - retrained(2), atol=1e-6)
    assert gain[2, 2] != 0


def test_the_command_writes_it_all_down(run, capsys) -> None:
    assert cli.main(["audit", str(run), "--leave-one-out"]) == 0
    assert capsys.readouterr().out.count("trained 3 rounds") == 5
    lines = list(csv.DictReader((run / "audit.csv").open()))
    assert len(lines) == len(audit.audit(run)) and "sensitivity to bright" in lines[0]
    page = (run / "audit.md").read_text()
    assert "synthetic data" in page and "## Whom each site helps" in page and "| clean | site | accuracy | 4 |" in page
    for name in ("audit.png", "leave_one_out.png"):
        assert min(Image.open(run / name).size) > 300
    liar = list(csv.reader((run / "leave_one_out.csv").open()))[4]  # the site with its labels the wrong way round
    assert liar[0] == "site 3" and np.mean([float(value) for value in liar[1:4]]) < 0 and liar[4] == "nan"


def test_too_many_sites_are_refused_before_anything_is_trained(run, tmp_path, capsys) -> None:
    facts = runfolder.read_json(run / "run.json")
    disk.write_json(tmp_path / "run.json", {**facts, "clients": 65})
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    assert cli.main(["audit", str(tmp_path), "--leave-one-out"]) == 1
    assert "65 sites would be 66 runs; this is for 64 sites or fewer" in capsys.readouterr().err


def test_nobody_can_gain_without_a_test_set_of_its_own() -> None:
    with pytest.raises(UserError, match="no test set belongs to the sites that train"):
        leave_one_out.gains(CONFIG, Wards(unseen=True).build(CONFIG.seed), 1, silent)


@pytest.mark.parametrize("words", [["--rounds", "-1"], ["--nothing"]])
def test_bad_words_are_refused(run, words, capsys) -> None:
    assert cli.main(["audit", str(run), *words]) == 1
    assert words[0] in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys) -> None:
    assert cli.main(["audit", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_who_was_left_out_by_the_rule_is_said(run, tmp_path) -> None:
    """As if the rule of the run had left out one site, which was told to attack, and its figures had been logged."""
    folder = shutil.copytree(run, tmp_path / "run")
    assert results.load(folder).selection is None and run_tables.left_out(results.load(folder)) == []
    chosen = {"rounds": [3, 40, 40, 0], "left_out": [0, 38, 2, 0], "attacks": [False, True, False, False]}
    arrays = dict(np.load(folder / "results.npz")) | {f"selection/{name}": one for name, one in chosen.items()}
    np.savez(folder / "results.npz", **arrays)
    record = results.load(folder)
    (table,) = run_tables.left_out(record)
    rows = [("site 1", 38, 40, 0.95, "yes"), ("site 2", 2, 40, 0.05, ""), ("site 0", 0, 3, 0.0, "")]
    assert table.rows == rows
    *_, said = audit_page.left_out_sites([table])
    assert said.splitlines()[:2] == [
        "- site 1 was left out in 38 of 40 rounds, and attacks",
        "- site 2 was left out in 2 of 40 rounds",
    ]
    assert run_tables.attack_sentence(record) == ""
    lines = [line._replace(training=SegmentFigures({}, uplink={"attack/sent": 40.0, "attack/kept": 2.0}))
             for line in record.history]  # fmt: skip
    config = {**record.config, "attack": {"class": "fedjax_mri.fed.attack.alie.ALIE"}}
    sentence = run_tables.attack_sentence(record._replace(history=lines[:2], config=config))
    assert sentence == " Attack: ALIE, 80 updates of attackers, of which the rule kept 4."


def test_a_run_tells_who_was_left_out(run) -> None:
    rows = ClientRow((), (), (), jnp.array([3, 4]), jnp.array([0, 2]))
    sim = SimpleNamespace(uplink=UplinkSettings(reduce=MultiKrum(1)).build(), attacking=jnp.array([False, True]))
    found = results.selection(sim, SimpleNamespace(clients=rows))
    assert [each.tolist() for each in found] == [[3, 4], [0, 2], [False, True]]
    plain = SimpleNamespace(uplink=UplinkSettings().build(), attacking=None)
    assert results.selection(plain, SimpleNamespace(clients=rows)) is None
