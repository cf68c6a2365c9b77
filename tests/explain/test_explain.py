"""The command on files: pages, maps and measures; what is bad gets one line, and nothing is lost."""

import csv
import pathlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydicom import examples
from pydicom.data import get_testdata_file

from fedjax_mri import cli, experiment, runfolder
from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.phantom import Phantom, SiteModel
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.tasks.classify import Classify

SITES = SiteModel(patients_mean=4.0, patients_sigma=0.0, patients_min=4, patients_max=4)
CONFIG = Experiment(
    name="tiny",
    data=Phantom(clients=2, test_clients=3, test_patients=12, size=64, sites=SITES),
    task=Classify(network=CNNSettings(widths=(4, 4))),
    local=LocalTraining(batch=4),
    sampling=Everyone(),
    rounds=2,
    evaluate_every=1,
    plan=Plan(tune_s=0, conv="xla", devices=1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("explain") / "run"
    experiment.run(CONFIG, folder, say=lambda line: None)
    return folder


def picture(path: pathlib.Path, side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2)
    disc = 90.0 * (x**2 + y**2 < 0.7) + 120 * ((x - 0.4) ** 2 + (y + 0.3) ** 2 < 0.03)
    Image.fromarray(disc.astype(np.uint8)).save(path)


def explain(run: pathlib.Path, *words: object) -> int:
    return cli.main(["explain", str(run), *map(str, words)])


def test_each_image_gets_its_page_maps_and_measures(run, tmp_path, capsys) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "in" / name)
        picture(tmp_path / "masks" / name)
    out = tmp_path / "out"
    words = (tmp_path / "in", "--methods", "gradinput,saliency", "--out", out, "--masks", tmp_path / "masks")
    assert explain(run, *words, "--batch", 2) == 0
    assert "3 explained, 0 refused" in capsys.readouterr().out
    with (out / "measures.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["image"], line["method"]) for line in lines] == [
        (name, method) for name in ("a.png", "b.png", "c.png") for method in ("gradinput", "saliency")
    ]
    assert all(0 <= float(line["energy inside"]) <= 1 for line in lines)
    assert lines[0]["insertion"] == lines[4]["insertion"]  # the same picture in another batch
    found = np.load(out / "a.png" / "gradinput.npy")
    assert found.shape == (64, 64) and found.dtype == np.float32 and np.ptp(found) > 0
    assert Image.open(out / "a.png" / "saliency.png").size[0] > 200
    page, index = ((out / name).read_text() for name in ("a.png/index.html", "index.html"))
    for text in ("Gradient x input lights up", "Prediction:", "hold the truth in 90% of cases", "<img"):
        assert text in page, text
    for text in ('href="c.png/index.html"', "3 images", "Coverage of sets by site", "synthetic data"):
        assert text in index, text
    assert explain(run, *words) == 1  # nothing is overwritten
    assert "index.html is there: give --force" in capsys.readouterr().err
    assert explain(run, tmp_path / "in", "--methods", "saliency", "--out", out, "--force", "--batch", 2) == 0


def test_what_is_bad_is_one_line_each_and_the_rest_goes_on(run, tmp_path, capsys) -> None:
    picture(tmp_path / "in" / "good.png")
    picture(tmp_path / "in" / "large.png", 80)
    (tmp_path / "in" / "text.png").write_text("no image")
    examples.ct.save_as(tmp_path / "in" / "ct.dcm")
    shutil.copy(str(get_testdata_file("MR_small.dcm", download=False)), tmp_path / "in" / "mr.dcm")
    words = ("--methods", "saliency,gradcma", "--out", tmp_path / "out")
    assert explain(run, tmp_path / "in", *words) == 1
    said = capsys.readouterr().out.replace(f"{tmp_path}/in/", "").splitlines()
    for text in (
        "gradcma: give one of",
        "large.png: 80 x 80 pixels, and the run knows 64 x 64",
        "text.png: neither PNG, JPEG, DICOM nor NIfTI",
        "ct.dcm: its modality is CT, not MR: give MR",
    ):
        assert sum(text in line for line in said) == 1, (text, said)
    assert f"2 explained, 3 refused: {tmp_path}/out/index.html" == said[-1]  # the DICOM slice is 64 x 64
    assert (tmp_path / "out" / "mr.dcm" / "saliency.npy").exists()


def test_runs_that_cannot_explain_are_refused(run, tmp_path, capsys) -> None:
    picture(tmp_path / "a.png")
    rest = (tmp_path / "a.png", "--out", tmp_path / "out")
    assert explain(run, *rest, "--methods", "no,none") == 1
    assert "--methods no,none: none is left" in capsys.readouterr().err
    assert explain(run, *rest, "--batch", 0) == 1
    assert "--batch 0" in capsys.readouterr().err


def test_a_run_that_kept_no_predictions_says_so(run, tmp_path, capsys) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / "results.npz").unlink()
    picture(tmp_path / "a.png")
    assert explain(bare, tmp_path / "a.png", "--methods", "saliency", "--out", tmp_path / "out") == 0
    assert sum("no calibration: " in line for line in capsys.readouterr().out.splitlines()) == 1
    assert "kept no predictions" in (tmp_path / "out" / "a.png" / "index.html").read_text()
