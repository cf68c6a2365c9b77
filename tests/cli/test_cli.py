"""The command as a user meets it: train, stop, kill, resume, evaluate, report; and every mistake in one line."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.phantom import Phantom, gallery
from fedjax_mri.run import checkpoint, prepare, runfolder

CONFIG = """
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.partition import IID
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="tiny",
    data=Folder({root!r}, size=8, partition=IID(5)),
    task=Classify(network=CNNSettings(widths=(8,), norm="batch"), statistics="local"),
    local=LocalTraining(batch=4, learning_rate=0.01),
    sampling=Uniform(3),
    rounds=6,
    evaluate_every=2,
    plan=Plan(tune_s=0),
)
"""


def fill(root: pathlib.Path, splits: dict[str, int], classes: tuple[str, ...] = ("bright", "dark")) -> None:
    """Noise, with a left half of one brightness a class."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for level, name in zip((200, 60, 120), classes):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                means = np.where(np.arange(32) < 16, level, 130)
                pixels = np.clip(rng.normal(means, 40, (32, 32)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    """A folder of images, a config for it, and a finished run."""
    home = tmp_path_factory.mktemp("home")
    fill(home / "images", {"Training": 16, "Testing": 6})
    (home / "tiny.py").write_text(CONFIG.format(root=str(home / "images")))
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(home / "run")]) == 0
    return home


def command(home: pathlib.Path, out: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "fedjax_mri", "train", str(home / "tiny.py"), "--out", str(home / out), *flags]


def final(run: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a run's newest checkpoint."""
    checkpoints = checkpoint.Checkpoints(run)
    return checkpoints._read(checkpoints.latest())


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def last_line(capsys) -> str:
    """What was said to a user who made a mistake: one line."""
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert len(said) == 1, lines
    return said[0]


def test_a_run_leaves_what_it_promises(home) -> None:
    run = home / "run"
    history = runfolder.read_history(run)
    assert [line["round"] for line in history] == [0, 2, 4, 6]
    assert history[-1]["published test/accuracy"] > 0.9
    assert 0 < history[-1]["useful_share"] <= 1
    facts = runfolder.read_json(run / "run.json")
    assert facts["environment"]["jax"] and facts["environment"]["plan"].startswith("Plan(devices=8")
    assert not facts["synthetic"]
    assert list(run.glob("events*"))
    page = (run / "report.html").read_text()
    assert "published test" in page and ">synthetic data<" not in page


@pytest.mark.thorough  # fed/test_engine.py does it without the command
def test_a_run_may_place_its_memory_elsewhere_and_change_its_mind(home) -> None:
    """Examples streamed and client state on the host for the first rounds, all on the devices for the rest."""
    for rounds, flags in (("2", ["--plan.data", "streamed", "--plan.clients", "host"]), ("6", [])):
        assert cli.main([*command(home, "elsewhere", "--rounds", rounds, *flags)[3:]]) == 0
    ours, theirs = final(home / "elsewhere"), final(home / "run")
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert 0 <= runfolder.read_history(home / "elsewhere")[1]["waited_share"] < 1


def test_evaluate_needs_the_run_alone(home, tmp_path, capsys) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    fill(tmp_path / "clinic", {"": 5})
    assert cli.main(["evaluate", str(tmp_path / "run"), "--data.root", str(tmp_path / "clinic")]) == 0
    assert "clinic: accuracy 1.0000" in capsys.readouterr().out


def test_evaluate_repeats_the_run_s_own_figures(home, capsys) -> None:
    assert cli.main(["evaluate", str(home / "run")]) == 0
    accuracy = runfolder.read_history(home / "run")[-1]["published test/accuracy"]
    assert f"published test: accuracy {accuracy:.4f}" in capsys.readouterr().out


def test_report_and_show_and_a_second_train_are_quick_words(home, capsys) -> None:
    (home / "run" / "report.html").unlink()
    assert cli.main(["report", str(home / "run")]) == 0
    assert (home / "run" / "report.html").stat().st_size > 10_000
    assert cli.main(["show", str(home / "tiny.py")]) == 0
    shown = capsys.readouterr().out
    assert "parameters" in shown and "memory per lane" in shown and "local.batch" in shown


@pytest.mark.thorough  # run/test_identity.py asks for more rounds of a schedule
def test_more_rounds_may_be_asked_for(home, tmp_path) -> None:
    shutil.copytree(home / "run", tmp_path / "more")
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(tmp_path / "more"), "--rounds", "8"]) == 0
    straight = tmp_path / "straight"
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(straight), "--rounds", "8"]) == 0
    same(final(tmp_path / "more"), final(straight))


@pytest.mark.thorough  # run/test_nonfinite.py goes on from another run
def test_another_run_s_end_may_be_a_beginning(home, tmp_path, capsys) -> None:
    flags = ["--resume-from", str(home / "run"), "--rounds", "8", "--local.learning-rate", "0.001"]
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(tmp_path / "next"), *flags]) == 0
    assert "going on after round 6" in capsys.readouterr().out
    assert runfolder.read_history(tmp_path / "next")[-1]["round"] == 8


def wait_for_progress(run: pathlib.Path, process: subprocess.Popen) -> None:
    """Until the run has logged one more segment, or has ended."""
    before = len(runfolder.read_history(run))
    for _ in range(3600):
        if process.poll() is not None or len(runfolder.read_history(run)) > max(before, 1):
            return
        time.sleep(0.05)
    raise AssertionError("no progress in three minutes")


@pytest.mark.slow
def test_a_signal_finishes_the_segment_and_saves(home) -> None:
    """As Ctrl-C does; `test_processes.py` sends SIGTERM."""
    out, sent = "stopped", signal.SIGINT
    flags = ("--rounds", "100000")
    process = subprocess.Popen(command(home, out, *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_progress(home / out, process)
    process.send_signal(sent)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + sent
    assert f"{sent.name}: stopped after round" in said and "Traceback" not in said
    history = runfolder.read_history(home / out)
    assert checkpoint.Checkpoints(home / out).latest() == history[-1]["round"]


MISTAKES = {  # one of each part of the command; the tests of the parts have their other bad settings
    "--local.learning-rate 1e30": "no longer finite; nothing was saved: lower local.learning_rate",
    "--data.root /nowhere/at/all": "/nowhere/at/all",
    "--data.train Trainig": "Trainig",
    "--loacl.batch 3": "did you mean --local.batch?",
    "--fed.sampling asynchronous --sampling.buffer 2 --sampling.concurrency 3": "latest=20: the algorithm remembers 0",
    "--fed.conditions stragglers --conditions.speeds.mbit-up 0": "speeds.mbit_up=0.0",
    "--uplink.clip -1": "uplink.clip=-1.0",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_line(home, tmp_path, capsys, flags) -> None:
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(tmp_path / "run"), *flags.split()]) == 1
    assert MISTAKES[flags] in last_line(capsys)


def test_a_changed_config_is_refused_with_what_differs(home, capsys) -> None:
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(home / "run"), "--local.batch", "5"]) == 1
    assert "local.batch: 4 -> 5" in last_line(capsys)


def test_an_empty_class_is_named(tmp_path, home, capsys) -> None:
    shutil.copytree(home / "images", tmp_path / "images")
    shutil.rmtree(tmp_path / "images" / "Training" / "dark")
    (tmp_path / "images" / "Training" / "dark").mkdir()
    flags = ["--out", str(tmp_path / "run"), "--data.root", str(tmp_path / "images")]
    assert cli.main(["train", str(home / "tiny.py"), *flags]) == 1
    assert "dark" in last_line(capsys)


def test_an_unknown_class_at_evaluation_is_named(home, tmp_path, capsys) -> None:
    fill(tmp_path / "clinic", {"": 2}, ("bright", "dark", "grey"))
    assert cli.main(["evaluate", str(home / "run"), "--data.root", str(tmp_path / "clinic")]) == 1
    assert "grey" in last_line(capsys)


def test_a_best_model_that_was_not_kept_is_not_evaluated(home, capsys) -> None:
    assert cli.main(["evaluate", str(home / "run"), "--best"]) == 1
    assert "keeps no best model, since its config has no early.figure" in last_line(capsys)


@pytest.mark.parametrize("words", [["report"], ["evaluate"]])
def test_a_folder_that_is_no_run_is_named(words, tmp_path, capsys) -> None:
    assert cli.main([*words, str(tmp_path / "nothing")]) == 1
    assert str(tmp_path / "nothing") in last_line(capsys)


def damage(run: pathlib.Path) -> None:
    """Every data file of the newest checkpoint cut in half."""
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)


@pytest.mark.thorough  # faults/test_matrix.py damages the newest checkpoint
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(home, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(home / "run", run)
    damage(run)
    again = ["train", str(home / "tiny.py"), "--out", str(run)]
    assert cli.main(again) == 1
    said = last_line(capsys)
    assert str(run / "checkpoints" / "6") in said and "delete that folder" in said
    shutil.rmtree(run / "checkpoints" / "6")
    assert cli.main(again) == 0
    same(final(run), final(home / "run"))


def test_a_full_disk_keeps_the_last_good_checkpoint(home, tmp_path, capsys, monkeypatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(home / "run", run)
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(run), "--rounds", "8"]) == 1
    assert "free space" in last_line(capsys)
    same(final(run), final(home / "run"))


def test_a_write_that_fails_midway_keeps_the_last_good_checkpoint(home, tmp_path, monkeypatch) -> None:
    import orbax.checkpoint as ocp

    run = tmp_path / "run"
    shutil.copytree(home / "run", run)
    checkpoints = checkpoint.Checkpoints(run)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*round 6 is the last good checkpoint"):
        checkpoints.save(8, {"x": np.zeros(3)})
    same(final(run), final(home / "run"))


@pytest.mark.thorough  # data/test_phantom.py draws what the next test asks for
def test_phantom_draws_a_grid(tmp_path) -> None:
    path = tmp_path / "grid.png"
    assert cli.main(["phantom", "--sites", "1", "--size", "64", "--out", str(path)]) == 0
    assert Image.open(path).size[0] > 300


def test_phantom_asks_for_the_grid_of_its_flags(tmp_path, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(gallery, "save_gallery", lambda *given: asked.append(given))
    words = ["phantom", "--sites", "2", "--seed", "3", "--out", str(tmp_path / "grid.png"), "--size", "128"]
    assert cli.main(words) == 0
    assert asked == [(Phantom(size=128), 2, 3, tmp_path / "grid.png")]
    assert capsys.readouterr().out == f"{tmp_path / 'grid.png'}\n"


def test_help_everywhere(capsys) -> None:
    for words in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["show", "--help"], ["phantom", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 0
    assert "--sites" in capsys.readouterr().out


@pytest.mark.thorough  # the config of run/test_volumes.py does
def test_a_config_may_hold_variants(home, tmp_path) -> None:
    text = CONFIG.format(root=str(home / "images")).replace("config = ", "one = ")
    text += '\nfrom dataclasses import replace\nconfigs = {"a": replace(one, rounds=1), "b": replace(one, rounds=2)}\n'
    (tmp_path / "two.py").write_text(text)
    assert cli.main(["train", str(tmp_path / "two.py"), "--out", str(tmp_path / "runs")]) == 0
    assert json.loads((tmp_path / "runs" / "b" / "config.json").read_text())["rounds"] == 2
    assert (tmp_path / "runs" / "report.html").exists() and os.listdir(tmp_path / "runs" / "a" / "checkpoints") == ["1"]
    runs, fresh = tmp_path / "runs", tmp_path / "fresh"
    assert cli.run_folders(["a"], fresh, alone=True) == {"a": fresh}
    assert cli.run_folders(["a"], fresh, alone=False) == {"a": fresh / "a"}
    assert cli.run_folders(["a"], runs, alone=True) == {"a": runs / "a"}, "it goes on where it was"


def test_a_plan_is_measured_once_and_said_each_time(home, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = ["--rounds", "1", "--plan.tune-s", "1e-9"]
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(tmp_path / "a"), *flags]) == 0
    assert "lanes=1, conv='direct'" in runfolder.read_json(tmp_path / "a" / "run.json")["environment"]["plan"]
    (again,) = cli.load_experiments(home / "tiny.py", flags).values()
    assert prepare.prepare(again, tmp_path / "b", print).plan.lanes == 1  # and so far as another run
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("plan: ")]
    for line, ending in zip(said, (r"nothing else measured\)$", r"remembered in .*\.json$"), strict=True):
        assert re.search(ending, line) and "direct convolutions, 1 lane on each of 8 devices" in line
