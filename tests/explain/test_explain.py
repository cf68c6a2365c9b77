"""The command on files: pages, maps and measures; what is bad gets one line, and nothing is lost."""

import csv
import pathlib
import shutil
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pydicom import examples
from pydicom.data import get_testdata_file

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.scan import Conversion, Limits
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.partition import IID
from fedjax_mri.explain import command, inputs, maps, out_of_distribution, rounds, triage, words
from fedjax_mri.explain.model import Trained
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run import experiment, results
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.record import TestResult
from fedjax_mri.tasks.classify import Classify

SIDE = 16


def picture(path: pathlib.Path, right: float = 0.4, side: int = SIDE) -> None:
    """A disc with a bright spot, and a corner by which it is not the mirror image of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2)
    disc = 90.0 * (x**2 + y**2 < 0.7) + 120 * ((x - right) ** 2 + (y + 0.3) ** 2 < 0.05)
    disc += 90.0 * (y - x > 1)
    noise = np.random.default_rng(int(1000 * right + 2000)).normal(0, 5, disc.shape)
    Image.fromarray(np.clip(disc + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A finished run on pictures with the spot on the left or right."""
    home = tmp_path_factory.mktemp("explain")
    for split, count in (("Training", 8), ("Testing", 20)):
        for name, sign in (("left", -1), ("right", 1)):
            for number in range(count):
                picture(home / "images" / split / name / f"{number}.png", sign * (0.3 + number / 100))
    config = Experiment(
        name="tiny",
        data=Folder(str(home / "images"), size=SIDE, partition=IID(2)),
        task=Classify(network=CNNSettings(widths=(4,))),
        local=LocalTraining(batch=4, learning_rate=0.01),
        sampling=Everyone(),
        rounds=2,
        evaluate_every=1,
        plan=Plan(tune_s=0, conv="xla", devices=1),
    )
    experiment.run(config, home / "run", say=lambda line: None)
    return home / "run"


def explain(run: pathlib.Path, *words: object) -> int:
    return cli.main(["explain", str(run), *map(str, words)])


def test_each_image_gets_its_page_maps_and_measures(run, tmp_path, capsys) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "in" / name)
        picture(tmp_path / "masks" / name)
    out = tmp_path / "out"
    rest = (tmp_path / "in", "--methods", "gradinput", "--out", out)
    assert explain(run, *rest, "--masks", tmp_path / "masks", "--batch", 2, "--ensemble", run) == 0
    assert "3 explained, 0 refused" in capsys.readouterr().out
    with (out / "measures.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["image"], line["method"]) for line in lines] == [(f"{name}.png", "gradinput") for name in "abc"]
    assert all(0 <= float(line["energy inside"]) <= 1 for line in lines)
    assert float(lines[0]["insertion"]) == pytest.approx(float(lines[2]["insertion"]), rel=1e-4)  # in another batch
    found = np.load(out / "a.png" / "gradinput.npy")
    assert found.shape == (SIDE, SIDE) and found.dtype == np.float32 and np.ptp(found) > 0
    assert Image.open(out / "a.png" / "gradinput.png").size[0] > 200
    page, index = ((out / name).read_text() for name in ("a.png/index.html", "index.html"))
    for text in ("Gradient x input lights up", "Prediction: ", "hold the truth in 90 % of cases", "data:image/png"):
        assert text in page, text
    for text in ('href="c.png/index.html"', "3 images", "Coverage of sets by site"):
        assert text in index, text
    assert explain(run, *rest) == 1  # nothing is overwritten
    assert "index.html is there: give --force" in capsys.readouterr().err


def test_nonsense_is_for_review_and_a_picture_of_the_run_s_own_kind_is_not(run, tmp_path) -> None:
    """Without what the run has kept of its images, a line says so."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 400), dtype=np.uint8)
    nonsense = {
        "black": 0 * noise[0],
        "white": 0 * noise[0, :, :40] + 255,
        "noise": noise[1, :, :40],
        "strip": noise[2],
    }
    picture(tmp_path / "in" / "own.png", 0.355)
    for name, pixels in nonsense.items():
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    moved = shutil.copytree(run, tmp_path / "moved")
    rest = (tmp_path / "in", "--methods", "gradinput", "--force", "--out", tmp_path / "out")
    assert explain(moved, *rest) == 0
    verdicts = {line["image"].removesuffix(".png"): line for line in read_table(tmp_path / "out")}
    assert all("unlike the 20 validation images (" in verdicts[name]["review"] for name in nonsense), verdicts
    assert "unlike" not in verdicts["own"]["review"] and float(verdicts["own"]["unlike p"]) > 0.05
    assert verdicts["black"]["review"].startswith("all pixels have the same grey value; ")
    assert "unlike the 20 validation images (" in (tmp_path / "out" / "noise.png" / "index.html").read_text()
    (moved / "reference.npz").unlink()
    told: list[str] = []
    old = command.prepare([moved], ["saliency"], tmp_path / "other", told.append).ood_reference
    assert old.reference is None and old.images == 24 and "has not kept what its images look like" in told[0]


def read_table(out: pathlib.Path) -> list[dict[str, str]]:
    with (out / "measures.csv").open() as file:
        return list(csv.DictReader(file))


def test_what_is_bad_is_one_line_each_and_the_rest_goes_on(run, tmp_path, capsys) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / "results.npz").unlink()
    picture(tmp_path / "in" / "good.png", side=40)  # brought to the run's size, as in training
    (tmp_path / "in" / "text.png").write_text("no image")
    examples.ct.save_as(tmp_path / "in" / "ct.dcm")
    shutil.copy(str(get_testdata_file("MR_small.dcm", download=False)), tmp_path / "in" / "mr.dcm")
    assert explain(bare, tmp_path / "in", "--methods", "saliency,gradcma", "--out", tmp_path / "out") == 1
    said = capsys.readouterr().out.replace(f"{tmp_path}/in/", "").splitlines()
    for text in (
        "no calibration: ",
        "gradcma: no such method; choose of gradcam, ",
        "text.png: of no kind that can be read: give one of DICOM, MetaImage, ",
        "ct.dcm: its modality is CT, not MR: give MR",
    ):
        assert sum(text in line for line in said) == 1, (text, said)
    assert f"2 explained, 2 refused: {tmp_path}/out/index.html" == said[-1]
    assert (tmp_path / "out" / "mr.dcm" / "saliency.npy").exists()
    assert "kept no predictions" in (tmp_path / "out" / "good.png" / "index.html").read_text()
    rest = (tmp_path / "in", "--out", tmp_path / "other")
    assert explain(run, *rest, "--methods", "no,none") == 1
    assert "--methods no,none: none is left" in capsys.readouterr().err
    assert explain(run, *rest, "--batch", 0) == 1
    assert "--batch 0" in capsys.readouterr().err


def test_the_report_explains_a_few(run, capsys) -> None:
    assert cli.main(["report", str(run), "--methods", "saliency"]) == 0
    page = (run / "report.html").read_text()
    assert "Maps against lesions" in page and "Stability of explanations" in page
    kept = results.load(run).explained
    assert kept.rounds.tolist() == [1, 2] and kept.maps["saliency"].shape == (2, 24, SIDE, SIDE)
    examples, mask = results.examples(run), np.ones((24, 8, 8, 1), np.float32)
    twice = rounds.explain(run, ["saliency"], examples.image, examples.truth, mask, print)
    assert twice.mask.shape == (24, SIDE, SIDE)
    np.testing.assert_allclose(twice.maps["saliency"], kept.maps["saliency"])


def fixed(window: tuple[float, float] | None, resizes: bool = False) -> inputs.Reader:
    conversion = Conversion("mr", "ct", window, "fixed", uuid.UUID(int=0))
    return inputs.Reader((SIDE, SIDE, 3), conversion, False, resizes, Limits())


def test_sizes_are_refused_unless_the_run_brings_them_to_its_own(tmp_path) -> None:
    picture(tmp_path / "a.png", side=20)
    with pytest.raises(UserError, match="20 x 20 pixels, and the run knows 16 x 16: resize it, or train with --task"):
        inputs.image(fixed(None), tmp_path / "a.png")
    found, _ = inputs.image(fixed(None, resizes=True), tmp_path / "a.png")
    assert found.shape == (SIDE, SIDE, 3) and 0.7 < found.max() <= 1
    assert inputs.mask(fixed(None), tmp_path / "a.png", (8, 8)).shape == (8, 8)
    with pytest.raises(UserError, match="no such mask"):
        inputs.mask(fixed(None), tmp_path / "b.png", (8, 8))


def test_a_method_that_cannot_take_the_network_is_left_out() -> None:
    said: list[str] = []

    def apply(model, x):
        return jnp.sort(x.reshape(len(x), -1))[:, :2] * model  # no layer, and no rule for sorting

    trained = Trained(
        (), "", ("a", "b"), (4, 4, 1), None, False, False, lambda x: x, apply, jax.jit(apply), dict, [jnp.float32(2)]
    )
    kept = maps.explainers(trained, ["lrp", "gradcam", "saliency"], said.append)
    assert [one.name for one in kept] == ["saliency"]
    assert len(said) == 2 and said[0].startswith("lrp: ") and said[1].startswith("gradcam: ")


def test_words_say_where_and_how_much() -> None:
    image = np.zeros((40, 40), np.float32)
    image[5:35, 5:35] = 1
    image[15:20, 15:20] = 0  # a dark hole belongs to the head
    inside = words.head(image)
    assert inside.sum() == 900
    found = np.zeros_like(image)
    found[6:12, 26:32], found[0:2, 0:3] = 4, 1
    covered = words.coverage(found, inside)
    assert covered == (pytest.approx(36 / 900), 1, "upper right", pytest.approx(6 / 150))
    assert words.sentence("LRP", "glioma", covered) == (
        "LRP lights up 4 % of the head, in one spot, upper right of the picture; 4 % of what speaks for glioma lies "
        "outside of the head."
    )
    assert words.coverage(-found, inside) is None
    assert words.sentence("LRP", "glioma", None) == "LRP has nothing that speaks for glioma."


def test_verdicts_say_why_a_person_should_look() -> None:
    rng, n = np.random.default_rng(0), 1600  # every second one calibrates
    labels = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + 2 * np.eye(3)[labels]
    chances = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)  # half as much again too sure
    tally = Tally(*[np.ones((4, 1))] * 4)
    test = TestResult(tally, chances.astype(np.float32), labels, rng.integers(0, 4, n))
    calibration = triage.fit("seen", {"unseen": test, "seen": test}, triage.Requirements(0.1, 0.97))
    assert calibration.temperature == pytest.approx(1.5, rel=0.15) and calibration.coverage_test == "unseen"
    assert calibration.site_coverage.shape == (4,) and abs(calibration.site_coverage.mean() - 0.9) < 0.03
    given = jnp.asarray([[30.0, 0, 0], [30.0, 30, 0], [-40.0, -70, -70]])
    images = np.linspace(0, 1, 64).astype(np.float32).reshape(1, 8, 8, 1).repeat(3, 0)
    old = out_of_distribution.OODReference(None, np.full(24, -20.0))  # of a run that kept no more
    found = out_of_distribution.detect_ood(old, images, given, {"outline": np.ones((3, 4))})
    sure, torn, strange = triage.verdicts(given, calibration, found, "abc")
    assert sure.reasons == [] and sure.prediction == 0 and sure.prediction_set.tolist() == [True, False, False]
    assert "confidence 0.50 is below" in torn.reasons[0] and torn.reasons[1].startswith("a or b")
    assert strange.reasons == ["unlike all of the 24 test images that the run has kept (energy)"]
    nothing = out_of_distribution.detect_ood(
        out_of_distribution.OODReference(None, np.zeros(0)), images[:1], given[:1], {"outline": np.ones((1, 4))}
    )
    assert triage.verdicts(jnp.ones((1, 3)), None, nothing, "abc")[0].reasons == [
        "the run has kept no predictions to calibrate by"
    ]
