"""A run that translates, from config to report: its figures are the measures, its best is kept, it stops early."""

import pathlib
from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import Drawn

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.phantom import Phantom, SiteModel
from fedjax_mri.data.unpaired import Unpaired
from fedjax_mri.fed.after.finetune import FineTune
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.metrics import image
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.report import run as report
from fedjax_mri.run import experiment, restore, results, runfolder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early, patience_is_over
from fedjax_mri.tasks.cyclegan import CycleGAN

SITES = SiteModel(patients_mean=2.0, patients_sigma=0.0, patients_min=2, patients_max=2)


PHANTOM = Phantom(clients=2, test_clients=2, test_patients=2, size=64, sites=SITES)
CONFIG = Experiment(
    name="tiny translation",
    data=Unpaired(Drawn(PHANTOM)),
    task=CycleGAN(GeneratorSettings(2, 1), PatchGANSettings(2, 1), identity=0.0, pool=2),
    local=LocalTraining(batch=2, optimizer="fedjax_mri.tasks.translation.adam", learning_rate=1e-4),
    sampling=Everyone(),
    rounds=2,
    evaluate_every=1,
    early=Early("unseen sites/mr/ssim", larger=True, patience=1),
    pictures=True,
    plan=Plan(tune_s=0, conv="xla", devices=1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("translation") / "run"
    experiment.run(CONFIG, folder)
    return folder


def test_figures_are_those_of_the_images(run) -> None:
    history = runfolder.read_history(run)
    with np.load(run / "results.npz") as arrays:
        shown = {name.removeprefix("shown/"): arrays[name] for name in arrays if name.startswith("shown/")}
        kept = arrays["unseen sites/mr/ssim"], arrays["unseen sites/ct/mae"]
    last = history[-1]
    assert shown["ct"].shape == shown["back_mr"].shape == (4, 16, 16, 1)  # all four patients
    ssim = np.asarray(jax.jit(image.ssim, static_argnums=2)(shown["made_mr"], shown["mr"], image.UNIT))
    np.testing.assert_allclose(kept[0], ssim, atol=1e-5)
    assert last["unseen sites/mr/ssim"] == pytest.approx(float(ssim.mean()), abs=1e-5)
    assert last["unseen sites/ct/mae HU"] == pytest.approx(400 * kept[1].mean(), rel=1e-4)
    cycle = sum(2 * np.abs(shown[f"back_{name}"] - shown[name]).mean() for name in ("ct", "mr"))
    assert last["unseen sites/cycle"] == pytest.approx(cycle, rel=1e-4)
    assert {"unseen sites/mr/error in white matter", "seen sites/ct/frechet", "train/cycle"} <= set(last)


def test_it_ends_where_nothing_gets_better_and_keeps_the_best(run) -> None:
    history = runfolder.read_history(run)
    values = [line["unseen sites/mr/ssim"] for line in history]
    assert (run / "pictures" / "round_00001.png").stat().st_size > 10_000
    lines = results.history(run)
    assert not any(patience_is_over(CONFIG.early, lines[:n]) for n in range(1, len(lines)))
    assert patience_is_over(CONFIG.early, lines) or len(lines) == 3
    kept = [path.name for path in (run / "best" / "checkpoints").glob("[0-9]*")]
    assert kept == ([str(np.argmax(values[1:]) + 1)] if max(values[1:]) > values[0] else [])


def test_the_report_and_the_table_say_it(run) -> None:
    record = results.load(run)
    page = report.write([record, record._replace(name="twin")], run / "report.html").read_text()
    for words in ("Images made against the truth", "Error by tissue", "Lesions kept", "synthetic data", "image/png"):
        assert words in page, words
    table = restore.figure_table({"a": {"mr/ssim": 0.5, "l1": 2.0}, "a longer name": {"mr/ssim": 0.25}})
    assert [line.split() for line in table.splitlines()] == [
        ["a", "a", "longer", "name"],
        ["mr/ssim", "0.5000", "0.2500"],
        ["l1", "2.0000", "nan"],
    ]


def test_early_stopping_excludes_what_follows_the_last_round(tmp_path) -> None:
    config = replace(CONFIG, finetune=FineTune(1))
    with pytest.raises(UserError, match=r"early.patience=1: what follows the last round"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
