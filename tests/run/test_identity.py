"""A run is known by its config, its data, its classes and its code, and its folder by what has been saved there."""

import importlib
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from fedjax_mri.cli import commands as cli
from fedjax_mri.core import disk, modules
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import checkpoint, experiment, restore, runfolder
from fedjax_mri.run.config import load

SOURCE = '''
from dataclasses import dataclass

import helper
import numpy as np
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.data.resident import resident


@dataclass(frozen=True)
class Mine:
    """Four clients with noise of two shades."""

    clients: int = 4

    def build(self, seed):
        rng, label = np.random.default_rng(seed), np.arange(8 * self.clients, dtype=np.int32) % 2
        noise = rng.normal(helper.SHADE, 0.1, (len(label), 8, 8, 1)) + 0.3 * label[:, None, None, None]
        image = np.clip(noise, 0, 1).astype(np.float32)
        data = resident({"image": image, "label": label}, np.split(np.arange(len(label)), self.clients))
        counts = np.full((self.clients, 2), 4, np.int32)
        owner = np.arange(self.clients, dtype=np.int32)
        return Federation(data, {"all": Test(data, owner)}, helper.CLASSES, counts)

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()
'''
EXPERIMENT = """
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    Mine(),
    name="mine",
    task=Classify(network=LinearSettings()),
    rounds=2,
    evaluate_every=1,
    local=LocalTraining(batch=4),
    sampling=Uniform(2),
    plan=Plan(devices=1, lanes=2, conv="gemm", tune_s=0),
)
"""
HELPER = 'SHADE = 0.5\nCLASSES = ("bright", "dark")\n'
SCRIPT = """
import pathlib
from fedjax_mri.run import experiment

if __name__ == "__main__":
    experiment.run(config, pathlib.Path("run"), say=lambda line: None)
"""


def project(folder: pathlib.Path, helper: str = HELPER) -> pathlib.Path:
    """A folder with a config whose source is the user's own, and a module beside it; returns the config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "helper.py").write_text(helper)
    (folder / "mine.py").write_text(SOURCE + EXPERIMENT)
    return folder / "mine.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    """A folder with that project and its run."""
    home = tmp_path_factory.mktemp("identity")
    assert cli.main(["train", str(project(home / "project")), "--out", str(home / "run")]) == 0
    return home


@pytest.fixture
def home(trained, tmp_path) -> pathlib.Path:
    """A copy of that folder."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "home"))


def train(home: pathlib.Path, *flags: str, out: str = "run") -> int:
    return cli.main(["train", str(home / "project" / "mine.py"), "--out", str(home / out), *flags])


def only_line(capsys) -> str:
    """What was said to a user who made a mistake: one line."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# Code


def test_a_run_keeps_copies_of_the_code_that_its_config_needs(home) -> None:
    for name in ("mine.py", "helper.py"):
        assert (home / "run" / "code" / name).read_text() == (home / "project" / name).read_text()
    assert runfolder.read_json(home / "run" / "config.json")["data"]["class"] == "mine.Mine"


@pytest.mark.slow
def test_a_moved_run_is_used_by_a_process_in_another_folder(home, tmp_path) -> None:
    """Evaluated and reported without the project, then trained on with it, in processes of their own."""
    (home / "run").rename(tmp_path / "moved")
    (home / "project").rename(tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    code = (
        "import sys; from fedjax_mri.cli import commands\n"
        "for words in (['evaluate', '../moved'], ['report', '../moved'],\n"
        "              ['train', '../elsewhere/mine.py', '--out', '../moved', '--rounds', '3']):\n"
        "    assert commands.main(words) == 0, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "empty", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on after round 2" in done.stdout and "all: accuracy" in done.stdout


def test_two_runs_with_modules_of_the_same_names_do_not_meet(home, tmp_path, capsys) -> None:
    """Each is evaluated with its own helper.py, in one process and in either order."""
    other = project(tmp_path / "other", HELPER.replace('"bright", "dark"', '"light", "dim"'))
    assert cli.main(["train", str(other), "--out", str(tmp_path / "theirs")]) == 0
    for run, classes in ((home / "run", ("bright", "dark")), (tmp_path / "theirs", ("light", "dim"))) * 2:
        assert restore.read_model_config(run).data.build(0).classes == classes
    assert cli.main(["evaluate", str(home / "run"), str(tmp_path / "theirs")]) == 0


def test_a_config_imports_the_module_beside_it_and_not_one_of_another_folder(home, tmp_path, monkeypatch) -> None:
    """Although a script has imported that before; it has it again when another config is read."""
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "helper.py").write_text(HELPER.replace('"bright", "dark"', '"no", "yes"'))
    modules.forget()
    monkeypatch.syspath_prepend(str(tmp_path / "script"))
    loaded = importlib.import_module("helper")
    (config,) = load(home / "project" / "mine.py").values()
    assert config.data.build(0).classes == ("bright", "dark")
    modules.forget()
    assert sys.modules.pop("helper") is loaded and loaded.CLASSES == ("no", "yes")


def test_changed_code_is_said(home, capsys) -> None:
    helper = home / "project" / "helper.py"
    helper.write_text(helper.read_text() + "# a word\n")
    assert train(home, "--rounds", "3") == 0
    said = capsys.readouterr().out
    assert f"warning: {helper} has changed since this run began" in said and "mine.py has changed" not in said
    assert (home / "run" / "code" / "helper.py").read_text() == helper.read_text()


@pytest.mark.slow
def test_a_script_s_own_classes_are_found_again(tmp_path, capsys) -> None:
    script = project(tmp_path)
    script.write_text(SOURCE + EXPERIMENT + SCRIPT)
    subprocess.run([sys.executable, script.name], cwd=tmp_path, check=True, capture_output=True)
    script.unlink()
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert "all: accuracy" in capsys.readouterr().out


def test_a_script_that_trains_when_it_is_imported_is_refused(home, capsys) -> None:
    copy = home / "run" / "code" / "mine.py"
    copy.write_text(copy.read_text() + SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    assert cli.main(["evaluate", str(home / "run")]) == 1
    assert "mine: trains when it is imported" in only_line(capsys)


def test_a_config_may_have_the_name_of_another_module(tmp_path) -> None:
    for name in ("numpy", "tiny", "my-config", "v1.2"):
        (tmp_path / f"{name}.py").write_text(HELPER)
        module = modules.execute(tmp_path / f"{name}.py")
        assert module.SHADE == 0.5 and sys.modules[module.__name__] is module
    assert sys.modules["numpy"] is np


def test_a_class_that_no_other_process_can_find_is_said(tmp_path) -> None:
    said = []
    (config,) = load(project(tmp_path / "project")).values()
    kind = type(config.data)
    kind.__qualname__ = "f.<locals>.Mine"
    experiment.run(config, tmp_path / "run", say=said.append)
    assert any("mine.f.<locals>.Mine is in no file" in line for line in said)


# Data


@pytest.mark.parametrize(
    "before, after, says",
    [
        ('"bright", "dark"', '"dark", "bright"', "classes: bright, dark -> dark, bright"),
        ("0.5", "0.4", "contents: "),
    ],
)
def test_a_run_goes_on_with_its_own_data_alone(home, capsys, before, after, says) -> None:
    helper = home / "project" / "helper.py"
    helper.write_text(helper.read_text().replace(before, after))
    kept = (home / "run" / "config.json").read_text()
    assert train(home, "--rounds", "3") == 1
    line = only_line(capsys)
    assert "the data have changed since this run began" in line and says in line
    assert (home / "run" / "config.json").read_text() == kept


def test_evaluation_refuses_other_classes_and_says_what_else_has_changed(home, capsys) -> None:
    copy = home / "run" / "code" / "helper.py"
    copy.write_text(HELPER.replace("0.5", "0.4"))
    assert cli.main(["evaluate", str(home / "run")]) == 0
    assert "warning: the data have changed since" in capsys.readouterr().out
    copy.write_text(HELPER.replace('"bright", "dark"', '"dark", "bright"'))
    assert cli.main(["evaluate", str(home / "run")]) == 1
    assert "its model knows the classes bright, dark, and the data have dark, bright" in only_line(capsys)


def test_a_run_goes_on_with_its_own_random_numbers(home, capsys, monkeypatch) -> None:
    facts = runfolder.read_json(home / "run" / "run.json")
    facts["environment"]["jax"] = "0.9.9"
    disk.write_json(home / "run" / "run.json", facts)
    assert train(home, "--rounds", "3") == 0
    assert "began with jax 0.9.9, and goes on with" in capsys.readouterr().out
    with jax.threefry_partitionable(False):
        assert train(home, "--rounds", "4") == 1
    assert "began with jax_threefry_partitionable=True, and it is False now" in only_line(capsys)


# Rounds


def test_more_rounds_do_not_change_the_rate_of_rounds_that_are_done(home, capsys) -> None:
    flags = ("--local.schedule", "cosine", "--local.learning-rate", "0.01")
    assert train(home, *flags, out="short") == 0
    assert train(home, *flags, "--rounds", "4", out="short") == 1
    assert "rounds=4" in (line := only_line(capsys)) and "give --local.schedule-rounds 2 to keep it" in line
    assert train(home, *flags, "--rounds", "4", "--local.schedule-rounds", "3", out="short") == 1
    assert "local.schedule_rounds: 2 -> 3" in only_line(capsys)
    assert train(home, *flags, "--rounds", "4", "--local.schedule-rounds", "2", out="short") == 0
    assert train(home, *flags, "--rounds", "4", "--local.schedule-rounds", "2", out="long") == 0
    for ours, theirs in zip(*(checkpoint.Checkpoints(home / out).leaves().values() for out in ("short", "long"))):
        np.testing.assert_array_equal(ours, theirs)


# Folders


def test_a_refused_command_leaves_no_folder(home, capsys) -> None:
    assert train(home, "--sampling.cohort", "9", out="new") == 1
    assert not (home / "new").exists()


@pytest.mark.parametrize("name", ["config.json", "report.html", "code/thesis.py", "pictures/cat.png"])
def test_a_folder_with_files_of_somebody_else_is_left_alone(home, capsys, name) -> None:
    file = home / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("[]")
    assert train(home, out="mine") == 1
    assert f"holds {name.split('/')[0]}, which no run has written" in only_line(capsys)
    assert [one for one in (home / "mine").rglob("*") if one.is_file()] == [file]


@pytest.mark.parametrize("flags", [["--wait", "-5"], ["--wait", "nan"], ["--heartbeat", "0"]])
def test_seconds_that_cannot_be_are_refused(home, capsys, flags) -> None:
    assert train(home, *flags, out="new") == 1
    assert f"{flags[0]} {float(flags[1]):g}" in only_line(capsys)


@pytest.mark.parametrize(
    "ending, says",
    [
        ("raise SystemExit(0)", "cannot be read as a config: SystemExit"),
        ('configs = {"../escaped": config}', "'../escaped', by which no folder can be named"),
        ('configs = {"": config, "b": config}', "'', by which no folder can be named"),
        ("configs = {1: config}", "1, by which no folder can be named"),
    ],
)
def test_a_config_file_that_would_escape_is_refused(home, capsys, ending, says) -> None:
    config = home / "project" / "mine.py"
    config.write_text(config.read_text() + ending + "\n")
    assert train(home, out="new") == 1
    assert says in only_line(capsys) and not (home / "new").exists()


@pytest.mark.parametrize("command", ["evaluate {run}", "train {config} --out {run} --rounds 3", "report {run}"])
@pytest.mark.parametrize("name", ["config.json", "run.json", "results.npz", "timings.json"])
def test_a_damaged_file_is_named_with_the_remedy(home, capsys, command, name) -> None:
    """It is JSON, but not ours; or it is cut short."""
    used = {"evaluate": ("config.json", "run.json"), "train": ("config.json", "run.json")}
    if name not in used.get(command.split()[0], ("run.json", "results.npz", "timings.json")):
        pytest.skip(f"{command.split()[0]} does not read {name}")
    file = home / "run" / name
    file.write_bytes(file.read_bytes()[:999] if name.endswith("npz") else b"[]")
    words = command.format(run=home / "run", config=home / "project" / "mine.py").split()
    assert cli.main(words) == 1
    assert name in (line := only_line(capsys)) and ("put back" in line or "fedjax-mri train" in line)


def test_a_copy_that_is_missing_is_named(home, capsys) -> None:
    (home / "run" / "code" / "helper.py").unlink()
    modules.forget()
    assert cli.main(["evaluate", str(home / "run")]) == 1
    assert "cannot import 'mine' (No module named 'helper'); put that module back" in only_line(capsys)


def test_fewer_rounds_than_are_done_are_refused_and_change_nothing(home, capsys) -> None:
    before = {file: file.read_bytes() for file in (home / "run").glob("*.json*")}
    assert train(home, "--rounds", "1") == 1
    assert "has done 2; ask for more" in only_line(capsys)
    assert {file: file.read_bytes() for file in (home / "run").glob("*.json*")} == before


def test_a_run_that_has_saved_nothing_may_be_replaced(home, capsys) -> None:
    """As after a divergence in the first segment, when the rate is lowered in the same folder."""
    theirs = runfolder.read_history(home / "run")
    shutil.rmtree(home / "run" / "checkpoints")
    config = home / "run" / "config.json"
    config.write_text(config.read_text().replace('"learning_rate": 0.001', '"learning_rate": 0.002'))
    assert train(home, "--rounds", "1") == 0
    assert '"learning_rate": 0.001' in config.read_text()
    ours = runfolder.read_history(home / "run")
    assert len(ours) == 2
    assert [(line["round"], line["all/nll"]) for line in ours] == [
        (line["round"], line["all/nll"]) for line in theirs[:2]
    ]


def test_one_that_has_saved_something_may_not(home, capsys) -> None:
    assert train(home, "--local.learning-rate", "0.002") == 1
    assert "holds a run of another config (local.learning_rate: 0.001 -> 0.002)" in only_line(capsys)


def test_a_study_s_folder_is_no_place_for_a_run(home, capsys) -> None:
    (home / "study").mkdir()
    (home / "study" / "study.json").write_text("{}")
    assert train(home, out="study") == 1
    assert "holds a study, not a run" in only_line(capsys)


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--fed.algorithm", "scaffold"], "a run by FedAvg, and this one is by Scaffold"),
        (["--data.clients", "5"], "clients.rounds should have shape"),
    ],
)
def test_another_run_s_state_fits_or_is_refused(home, capsys, flags, says) -> None:
    assert train(home, "--resume-from", str(home / "run"), "--rounds", "3", *flags, out="next") == 1
    assert says in only_line(capsys)
    assert not (home / "next").exists()


def test_another_run_s_classes_are_its_own(home, capsys) -> None:
    helper = home / "project" / "helper.py"
    helper.write_text(helper.read_text().replace('"bright", "dark"', '"dark", "bright"'))
    assert train(home, "--resume-from", str(home / "run"), "--rounds", "3", out="next") == 1
    assert "its model knows the classes bright, dark" in only_line(capsys)


def test_state_that_this_run_has_no_place_for_is_not_dropped(tmp_path) -> None:
    shapes = {"a": np.zeros(2)}
    with pytest.raises(UserError, match="holds b, of which this run has nothing"):
        checkpoint.fill_shapes(shapes, {"a": np.ones(2), "b": np.ones(3)}, tmp_path)


def test_reading_a_run_leaves_the_config_in_use_its_modules(home, tmp_path) -> None:
    """As when a run is trained with the encoder of another one, whose helper.py is not its own."""
    other = project(tmp_path / "other", HELPER.replace('"bright", "dark"', '"light", "dim"'))
    (config,) = load(other).values()
    theirs = restore.read_model_config(home / "run")
    assert theirs.data.build(0).classes == ("bright", "dark")
    assert config.data.build(0).classes == ("light", "dim")
    assert sys.modules["helper"].CLASSES == ("light", "dim") and sys.modules["mine"].config is config
    assert {file.name for file in modules.sources(["mine"]).values()} == {"mine.py", "helper.py"}
    assert str(other.parent) in sys.path and str(home / "run" / "code") not in sys.path
