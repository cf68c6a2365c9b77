"""Volumes through the command line: trained, evaluated, reported; and what is for images alone says so."""

import json
import pathlib

import numpy as np
import pytest
from described import described

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import restore, results, runfolder
from fedjax_mri.run.assemble import describe
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN

SOURCE = """
from dataclasses import dataclass

import numpy as np

from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.data.resident import resident

SHAPE = (3, 8, 8, 1)


@dataclass(frozen=True)
class Noise:
    def build(self, seed):
        rng, sizes = np.random.default_rng(seed), [5, 3, 4]
        label = np.arange(12, dtype=np.int32) % 2
        bright = 80 * label[:, None, None, None, None]
        arrays = {
            "image": np.clip(rng.normal(90 + bright, 20, (12, *SHAPE)), 0, 255).astype(np.uint8),
            "ct": rng.normal(bright, 20, (12, *SHAPE)).astype(np.int16),
            "mr": rng.integers(0, 256, (12, *SHAPE)).astype(np.uint8),
            "label": label,
        }
        parts = np.split(np.arange(12), np.cumsum(sizes)[:-1])
        tests = {"again": Test(resident(arrays, parts), np.arange(3, dtype=np.int32))}
        counts = np.stack([np.bincount(label[part], minlength=2) for part in parts]).astype(np.int32)
        facts = {"modalities": ("mr",), "spacing": (5.0, 1.0, 1.0)}
        return Federation(resident(arrays, parts), tests, ("dark", "bright"), counts, synthetic=True, **facts)

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()
"""
CONFIG = """
from noise_volumes import Noise

from fedjax_mri.data.augment import Augment, Preprocess
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.fusion import Cross
from fedjax_mri.nets.volume import VolumeEncoder
from fedjax_mri.nets.volume_cnn import VolumeCNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.fusion import Fuse

ENCODER = VolumeEncoder(widths=(4,))
TASKS = {
    "one": Classify(VolumeCNNSettings(ENCODER), preprocess=Preprocess(size=4), augment=Augment(flip=0.5), mirror=True),
    "both": Fuse(Cross(ENCODER, ENCODER, width=4, heads=1, hidden=4)),
}
configs = {
    name: Experiment(
        Noise(),
        name=name,
        task=task,
        local=LocalTraining(epochs=2, batch=4, learning_rate=0.01),
        sampling=Everyone(),
        rounds=4,
        evaluate_every=4,
        plan=Plan(tune_s=0, conv="xla", devices=1),
    )
    for name, task in TASKS.items()
}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    """Both tasks, trained on volumes by one command."""
    home = tmp_path_factory.mktemp("volumes")
    (home / "noise_volumes.py").write_text(SOURCE)
    (home / "config.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        assert cli.main(["train", str(home / "config.py"), "--out", str(home / "runs")]) == 0
    return home


@pytest.mark.parametrize("name", ["one", "both"])
def test_volumes_are_learnt_and_evaluated(home, capsys, name) -> None:
    run = home / "runs" / name
    first, last = runfolder.read_history(run)
    assert last["train/nll"] < first["again/nll"]
    assert cli.main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    assert "accuracy" in said and f"{last['again/accuracy']:.4f}" in said


def test_a_report_shows_middle_slices_and_the_run_knows_its_data(home) -> None:
    page = (home / "runs" / "report.html").read_text()
    assert "Confusion" in page and "data:image/png" in page
    volumes = restore.restore(home / "runs" / "one")
    assert volumes.described.image == (3, 8, 8, 1) and volumes.described.spacing == (5.0, 1.0, 1.0)
    assert volumes.described.labels == (6, 6) and volumes.described.modalities == ("mr",)
    shown = results.examples(home / "runs" / "one").image
    source = volumes.config.data.build(volumes.config.seed).tests["again"].data.store.fields["image"]
    np.testing.assert_array_equal(shown, source[:, 1])
    assert results.examples(home / "runs" / "both").image.shape == (12, 8, 16, 1)
    assert json.loads((home / "runs" / "one" / "run.json").read_text())["spacing"] == [5.0, 1.0, 1.0]


def test_a_source_says_which_fields_are_images(home) -> None:
    config = runfolder.read_config(home / "runs" / "one")
    federation = config.data.build(0)
    assert describe(federation._replace(images=("ct", "mr"))).image == (3, 8, 8, 1)
    with pytest.raises(UserError, match="its images are said to be in 'pet', its batches hold ct, image, label, mr"):
        describe(federation._replace(images=("pet",)))


def test_what_is_for_images_refuses_volumes_in_one_line(home, tmp_path, capsys) -> None:
    for task in (Classify(network=CNNSettings()), CycleGAN()):
        with pytest.raises(UserError, match=r"works on images \[H, W, C\], the data have the shape \[3, 8, 8, 1\]"):
            task.build(described((3, 8, 8, 1), 2), Compute())
    page = tmp_path / "page.png"
    page.write_bytes(b"")
    assert cli.main(["explain", str(home / "runs" / "one"), str(page), "--out", str(tmp_path / "out")]) == 1
    assert "explain: works on images [H, W, C]" in capsys.readouterr().err
