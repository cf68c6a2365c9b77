"""Detection on translated images: figures by hand, and the table of two runs of random weights."""

import pathlib
from dataclasses import replace

import detection_on_translated as detection
import jax
import numpy as np
import pytest
from tiny import Drawn

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import ClientData, DataDescription
from fedjax_mri.data.phantom import CLASSES, Phantom
from fedjax_mri.data.unpaired import Unpaired
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import init_state
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.run import config as configs
from fedjax_mri.run.assemble import assemble
from fedjax_mri.run.checkpoint import Checkpoints
from fedjax_mri.run.config import Experiment
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN

PATIENTS = Drawn(Phantom(clients=2, test_clients=2, test_patients=3))
PLAN = Plan(conv="xla", devices=1)
BASE = Experiment(PATIENTS, sampling=Everyone(), plan=PLAN)
GAN = CycleGAN(GeneratorSettings(2, 1), PatchGANSettings(2, 1), pool=2)
TRANSLATION = replace(BASE, data=Unpaired(PATIENTS), task=GAN)
CLASSIFIER = replace(BASE, task=Classify(network=CNNSettings((8,), pool="mean")))


def saved(run: pathlib.Path, config: Experiment, size: int = 16) -> pathlib.Path:
    """A run folder of random weights."""
    run.mkdir()
    described = DataDescription((size, size, 1), CLASSES, 2)
    disk.write_json(run / "config.json", configs.to_dict(config))
    disk.write_json(run / "run.json", {"name": config.name, **described._asdict()})
    nobody = ClientData(np.ones(2, np.int32), (), lambda store, client, indices: {})
    sim = assemble(config, described, nobody, config.plan.resolve())
    Checkpoints(run).save(1, jax.jit(lambda key: init_state(sim, key))(jax.random.key(0)))
    return run


def test_figures_of_four_patients() -> None:
    """Two of three tumours and the healthy one are found; one tumour's class is wrong, and one counts as healthy."""
    labels = np.array([0, 1, 2, 3])
    chances = np.array([[0.7, 0.1, 0.1, 0.1], [0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6], [0.1, 0.1, 0.1, 0.7]])
    found = detection.figures(chances, labels, healthy=3)
    assert found["accuracy"] == 0.5 and found["tumour: accuracy"] == 0.75
    assert found["sensitivity"] == pytest.approx(2 / 3) and found["specificity"] == 1
    assert found["precision"] == 1 and found["F1"] == pytest.approx(0.8) and found["AUC"] == 1


@pytest.mark.thorough  # the parts of the table have tests of their own
def test_a_table_for_real_and_translated_images(tmp_path) -> None:
    runs = saved(tmp_path / "translation", TRANSLATION), saved(tmp_path / "classifier", CLASSIFIER)
    text = detection.report(*runs)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows] == [
        *("", "real MR", "MR made of CT", "MR from cycle", "drop"),
        *("", "CT", "MR"),
    ]
    assert "6 patients" in text and "(synthetic)" in text
    real, made, drop = (np.array([float(cell.strip(" |")) for cell in rows[i][1:]]) for i in (1, 2, 4))
    np.testing.assert_allclose(real - made, drop, atol=2e-4)
    small = saved(tmp_path / "small", replace(CLASSIFIER, name="small"), 8)
    with pytest.raises(UserError, match=r"sees images of \(8, 8, 1\), the translator makes \(16, 16, 1\)"):
        detection.report(runs[0], small)
