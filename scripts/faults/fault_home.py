"""The folder with all that the tried commands need: a config, runs, a study and images. All of it is synthetic."""

import pathlib
import shutil

import numpy as np
from fault_commands import Call, Home
from PIL import Image

from fedjax_mri.run import runfolder

ROUNDS = 40
SMALL = """
import runpy
from dataclasses import replace
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.cnn import CNNSettings

quick = runpy.run_path({quickstart!r})["config"]
few = replace(quick.data.sites, patients_mean=8.0, patients_max=8)
config = replace(
    quick,
    name="small sibling of the quick-start",
    data=replace(quick.data, clients=12, test_clients=4, test_patients=2, sites=few),
    task=replace(quick.task, network=CNNSettings(widths=(4, 8))),
    sampling=Uniform(4),
    rounds=40,
    evaluate_every=2,
)
"""
STUDY = """
from dataclasses import replace
from small import config
from fedjax_mri.study.study import Study

study = Study(replace(config, rounds=4), {"local.batch": [4, 8], "local.learning_rate": [0.001, 0.002]})
"""
TRANSLATION = """
from fedjax_mri.data.phantom import Phantom, SiteModel
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.translation import PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.pix2pix import Pix2Pix

sites = SiteModel(patients_mean=2.0, patients_sigma=0.0, patients_min=2, patients_max=2)
config = Experiment(
    name="translation",
    data=Phantom(clients=2, test_clients=2, test_patients=2, size=64, sites=sites),
    task=Pix2Pix("mr", UNetSettings(depth=2, width=4, norm="instance"), PatchGANSettings(width=4, halvings=1)),
    local=LocalTraining(batch=2, optimizer="fedjax_mri.tasks.translation.adam", learning_rate=1e-4),
    sampling=Everyone(),
    rounds=2,
    evaluate_every=1,
    plan=Plan(tune_s=0, conv="xla", devices=1),
)
"""


def build(folder: pathlib.Path, quickstart: pathlib.Path, call: Call) -> Home:
    """Makes the folder, unless it is there. Its `run` keeps all checkpoints, `half` is it after half its rounds."""
    home = Home(folder, folder / "small.py", folder / "study.py", folder / "images", call)
    if (folder / "half").exists():
        return home
    folder.mkdir(parents=True)
    texts = {"small": SMALL.format(quickstart=str(quickstart)), "study": STUDY, "translation": TRANSLATION}
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    draw_images(folder / "images")
    for config, out, flags in (("small", "run", ["--keep", "1000"]), ("translation", "translator", [])):
        seen = call(["train", str(folder / f"{config}.py"), "--out", str(folder / out), *flags])
        assert seen.code == 0, seen
    cut_to_half(folder / "run", folder / "half")
    return home


def draw_images(folder: pathlib.Path, count: int = 3, side: int = 64) -> None:
    """Draws discs in noise."""
    folder.mkdir()
    x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2)
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 8, x.shape)
        pixels = np.clip(120.0 * (x**2 + y**2 < 0.6) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def cut_to_half(run: pathlib.Path, half: pathlib.Path) -> None:
    """Copies a run as it was after half its rounds."""
    rounds = runfolder.read_history(run)[-1]["round"] // 2
    shutil.copytree(run, half)
    for path in (half / "checkpoints").iterdir():
        if path.name.isdecimal() and int(path.name) > rounds:
            shutil.rmtree(path)
    for path in (*half.glob("results.npz"), *half.glob("report.html"), *half.glob("timings.json")):
        path.unlink()
    lines = (half / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line, values in zip(lines, runfolder.read_history(run)) if values["round"] <= rounds]
    (half / "metrics.jsonl").write_text("".join(kept), encoding="utf-8")
