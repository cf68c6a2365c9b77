"""Parts in files of one's own, chosen by flag; a run with them is evaluated from anywhere, without these files."""

import pathlib
import shutil

import pytest

from fedjax_mri.cli import commands
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import config, results

CONFIG = """
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="own parts", data=Synthetic(clients=3, validation=0.1), task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=1, batch=64, optimizer="optax.sgd"), sampling=Everyone(), rounds=1,
    plan=Plan(tune_s=0, devices=1), pictures=False,
)
"""
HELPER = "FACTOR = 0.5\n"
ALGORITHM = """
from dataclasses import dataclass
import helper
from fedjax_mri.fed.algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Halved:
    factor: float = helper.FACTOR

    def build(self):
        return FedAvg(server_rate=self.factor).build()

@dataclass(frozen=True)
class Still:
    def build(self):
        return FedAvg(server_rate=1e-9).build()
"""
NETWORK = """
from dataclasses import dataclass
from fedjax_mri.nets.linear import LinearSettings

@dataclass(frozen=True)
class MineSettings:
    def build(self, image, classes, compute):
        return LinearSettings().build(image, classes, compute)
"""
SOURCE = """
from dataclasses import dataclass
from fedjax_mri.data.synthetic import Synthetic

@dataclass(frozen=True)
class Few:
    clients: int = 3

    def build(self, seed):
        return Synthetic(clients=self.clients, validation=0.1).build(seed)
"""


@pytest.fixture
def own(tmp_path) -> pathlib.Path:
    """A config in one folder, and parts in another."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "config.py").write_text(CONFIG)
    for name, text in (("helper", HELPER), ("mine", ALGORITHM), ("net", NETWORK), ("source", SOURCE)):
        (tmp_path / "parts" / f"{name}.py").write_text(text)
    return tmp_path


def test_parts_of_own_files_train_and_are_evaluated_from_another_folder_without_them(own, monkeypatch, capsys) -> None:
    parts = [*["--fed.algorithm", f"{own}/parts/mine.py:Halved"], *["--fed.task.network", f"{own}/parts/net.py"]]
    parts += ["--fed.data", f"{own}/parts/source.py", "--data.clients", "4", "--algorithm.factor", "0.25"]
    assert commands.main(["train", str(own / "config.py"), "--out", str(own / "run"), *parts]) == 0
    figures = results.history(own / "run")[-1].tests["held-out"].pooled
    assert len(results.load(own / "run").labels) == 4
    shutil.rmtree(own / "parts")
    (own / "elsewhere").mkdir()
    monkeypatch.chdir(own / "elsewhere")
    capsys.readouterr()
    assert commands.main(["evaluate", str(own / "run")]) == 0
    assert f"accuracy {figures['accuracy']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--fed.algorithm", "absent.py", "absent.py: no such file"),
        ("--fed.algorithm", "parts/mine.py", "parts/mine.py: give parts/mine.py:halved or parts/mine.py:still"),
        ("--fed.algorithm", "parts/mine.py:Halve", "parts/mine.py:Halve: give parts/mine.py:halved or"),
        ("--fed.algorithm", "parts/helper.py", "has no dataclass with a method build"),
        ("--fed.task.network", "parts/source.py", r"has no dataclass with a method build\(image, classes, compute\)"),
    ],
)
def test_what_is_no_part_is_one_line(own, monkeypatch, flag, value, words) -> None:
    monkeypatch.chdir(own)
    with pytest.raises(UserError, match=words):
        config.override(config.load("config.py")[""], [flag, value])


WRONG = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Wrong:
    def build(self{parameters}):
        {body}
"""
PARAMETERS = {"algorithm": "", "task.network": ", image, classes, compute", "data": ", seed"}


@pytest.mark.parametrize(("body", "words"), [
    ("pass", "line 6: Wrong.build returns None; is a return missing?"),
    ("return {}", "line 6: Wrong.build returns a dict; return a"),
    ("raise ValueError('too wide')", "line 7, in build: ValueError: too wide"),
    ("return len(5)", "line 7, in build: TypeError: object of type 'int' has no len()"),
])  # fmt: skip
@pytest.mark.parametrize("part", PARAMETERS)
def test_a_part_that_builds_something_else_is_the_user_s_in_one_line(own, capsys, part, body, words) -> None:
    (own / "wrong.py").write_text(WRONG.format(parameters=PARAMETERS[part], body=body))
    given = [str(own / "config.py"), "--out", str(own / "run"), f"--fed.{part}", str(own / "wrong.py")]
    assert commands.main(["train", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {own / 'wrong.py'}, {words}") and "fault of" not in line


def test_a_build_with_other_arguments_is_the_user_s(own, capsys) -> None:
    (own / "wrong.py").write_text(WRONG.format(parameters=", image", body="pass"))
    given = [str(own / "config.py"), "--out", str(own / "run"), "--fed.algorithm", str(own / "wrong.py")]
    assert commands.main(["train", *given]) == 1
    words = "line 6: Wrong.build cannot be called with 0 arguments: Wrong.build() missing 1 required"
    assert words in capsys.readouterr().err


def test_a_source_of_the_package_is_chosen_by_name(own) -> None:
    found = config.override(config.load(own / "config.py")[""], ["--fed.data", "arrays", "--data.path", "x.npz"])
    assert type(found.data).__name__ == "Arrays" and found.data.path == "x.npz"
    with pytest.raises(UserError, match=r"Arrays.path has no default: give --data.path as well"):
        config.override(config.load(own / "config.py")[""], ["--fed.data", "arrays"])


def test_a_network_with_other_logits_is_refused(own) -> None:
    text = NETWORK.replace(
        "LinearSettings().build(image, classes, compute)", "LinearSettings().build(image, 7, compute)"
    )
    (own / "wrong.py").write_text(text)
    flags = ["--fed.task.network", str(own / "wrong.py")]
    found = config.override(config.load(own / "config.py")[""], flags)
    described = DataDescription((1, 1, 60), tuple("abcdefghij"), 3)
    with pytest.raises(UserError, match=r"network MineSettings: gives \[2, 7\] .* give logits"):
        found.task.build(described, Compute("xla"))
