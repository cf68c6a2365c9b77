"""Mistakes and mishaps as a user meets them: the exit code, the one line on stderr, and what lies in the folder after.

Each case gets a copy of a home: images, the config `tiny.py` for them, and its finished `run`. What the file system,
the environment and JAX may refuse is in `tests/cli/test_failures.py`.
"""

import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from test_cli import CONFIG, fill, final

from fedjax_mri.cli import commands as cli
from fedjax_mri.run import lock, runfolder

TRAIN = "train {home}/tiny.py --out {home}/"
AGAIN = TRAIN + "run"
NEW = TRAIN + "new"
NO_CHECKPOINT = r"^(?!.*checkpoint is from).*lower local\.learning_rate"  # nothing is said of one that is not there
OWN = '''
"""A source of one's own that hands over what its field says."""
from dataclasses import dataclass, replace
import numpy as np
from tiny import config as base
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.data.resident import resident
from fedjax_mri.nets.cnn import CNNSettings

@dataclass(frozen=True)
class Mine:
    mistake: str = ""

    def build(self, seed):
        label = np.arange(12, dtype=np.int32) % 2
        image = np.random.default_rng(0).uniform(size=(12, 8, 8, 1)).astype(np.float32)
        image = {"range": 255 * image, "rank": image[..., 0], "nan": np.where(image < 0.1, np.nan, image)}.get(self.mistake, image)
        label = {"labels": label + 1, "floats": label.astype(np.float32)}.get(self.mistake, label)
        name = "picture" if self.mistake == "key" else "image"
        data = resident({name: image, "label": label}, np.split(np.arange(12), 3))
        return Federation(data, {"test": Test(data, np.arange(3, dtype=np.int32))}, ("a", "b"), np.full((3, 2), 2))

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()

config = replace(base, data=Mine(), rounds=2)
'''  # noqa: E501
STUDY = """
from tiny import config
from fedjax_mri.study.study import Study
study = Study(config, {{"sampling.cohort": [{cohorts}]}})
"""


class Place(NamedTuple):
    """The folder of a case."""

    home: pathlib.Path

    def names(self, folder: str) -> set[str]:
        """Names of files and folders in a folder; empty where there is none."""
        return {path.name for path in (self.home / folder).glob("*")}


Act = Callable[[Place], None]


def nothing(place: Place) -> None:
    """Does nothing."""


class Case(NamedTuple):
    """A command, and what it must come to."""

    command: str  # {home} is the folder of the case
    says: str  # a pattern of its one line; "" where it must succeed
    prepare: Act = nothing
    after: Act = nothing


# ---- what is prepared


def changed(name: str, before: str, after: str) -> Act:
    """Replaces text in a file."""

    def act(place: Place) -> None:
        path = place.home / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return act


def class_renamed(place: Place) -> None:
    """The folder of a class gets a name that sorts otherwise."""
    for split in ("Training", "Testing"):
        (place.home / "images" / split / "dark").rename(place.home / "images" / split / "a night")


def images_added(place: Place) -> None:
    """Two images more to train on."""
    for number in (1, 2):
        folder = place.home / "images" / "Training" / "dark"
        Image.fromarray(np.full((32, 32), 60 + number, np.uint8)).save(folder / f"more {number}.png")


def own_source(place: Place) -> None:
    """A config file with a source of its own."""
    (place.home / "mine.py").write_text(OWN)


def file_in_the_way(place: Place) -> None:
    """A file where the folder is to be."""
    (place.home / "new").write_text("a file")


def black_image(place: Place) -> None:
    """An image in which there is nothing."""
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(place.home / "black.png")


def study_of(cohorts: str) -> Act:
    """A study over sizes of cohorts."""
    return lambda place: (place.home / "study.py").write_text(STUDY.format(cohorts=cohorts)) and None


# ---- what must lie there


def no_folder(place: Place) -> None:
    """A refused command leaves no folder."""
    assert not (place.home / "new").exists()


def same_run(place: Place) -> None:
    """The run is as it was."""
    assert [line["round"] for line in runfolder.read_history(place.home / "run")] == [0, 2, 4, 6]
    assert runfolder.read_json(place.home / "run" / "config.json")["rounds"] == 6
    assert place.names("run/checkpoints") == {"4", "6"} and "lock.json" not in place.names("run")


def figures_are_numbers(place: Place) -> None:
    """No figure is NaN, no running variance negative, and every line is JSON."""

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    for line in (place.home / "new" / "metrics.jsonl").read_text().splitlines():
        assert all(math.isfinite(value) for value in json.loads(line, parse_constant=refuse).values())
    variances = [value for name, value in final(place.home / "new").items() if name.endswith("var")]
    assert variances and all(np.all(value >= 0) for value in variances)


def corrected_study(place: Place) -> None:
    """The folder of a study of which no cell was possible takes the corrected study."""
    study_of("2")(place)
    words = ["sweep", str(place.home / "study.py"), "--out", str(place.home / "new"), "--rounds", "1"]
    assert cli.main(words) == 0


CASES = {
    "statistics at a high server rate": Case(
        NEW + " --task.statistics average --algorithm.server-rate 2 --rounds 4", "", after=figures_are_numbers
    ),
    "a class renamed": Case(AGAIN, "a night", class_renamed, same_run),
    "a class renamed, evaluated": Case("evaluate {home}/run", "a night", class_renamed, same_run),
    "images added": Case(AGAIN, "data", images_added, same_run),
    "a schedule over other rounds": Case(
        AGAIN + " --local.schedule cosine --rounds 8",
        "schedule.rounds",
        changed("run/config.json", '"schedule": "constant"', '"schedule": "cosine"'),
    ),
    "no such data": Case(NEW + " --data.root /nowhere/at/all", "/nowhere/at/all", after=no_folder),
    "fewer rounds than done": Case(AGAIN + " --rounds 2", "rounds=2", after=same_run),
    "a rate too high": Case(NEW + " --local.learning-rate 1e30", NO_CHECKPOINT),
    "data out of range": Case("train {home}/mine.py --out {home}/new --data.mistake range", "image", own_source),
    "data not finite": Case("train {home}/mine.py --out {home}/new --data.mistake nan", "image", own_source),
    "labels from 1": Case("train {home}/mine.py --out {home}/new --data.mistake labels", "label", own_source),
    "labels in floats": Case("train {home}/mine.py --out {home}/new --data.mistake floats", "label", own_source),
    "images of another name": Case("train {home}/mine.py --out {home}/new --data.mistake key", "image", own_source),
    "images without channels": Case("train {home}/mine.py --out {home}/new --data.mistake rank", "image", own_source),
    "a source of one's own": Case(
        "train {home}/mine.py --out {home}/new",
        "",
        own_source,
        lambda place: cli.main(["evaluate", str(place.home / "new")]) and pytest.fail("cannot be evaluated"),
    ),
    "data as text": Case(NEW, r"data.*imgs", changed("tiny.py", "data=Folder(", 'data="imgs" or Folder('), no_folder),
    "an algorithm as text": Case(NEW, r"algorithm.*fedprox", changed("tiny.py", "rounds=6", 'algorithm="fedprox"')),
    "an optimiser itself": Case(
        NEW, "local.optimizer", changed("tiny.py", "batch=4", "batch=4, optimizer=__import__('optax').sgd"), no_folder
    ),
    "a rate as text": Case(
        NEW, r"local.learning_rate.*0\.1", changed("tiny.py", "learning_rate=0.01", 'learning_rate="0.1"'), no_folder
    ),
    "a negative seed": Case(NEW + " --seed -1", "seed", after=no_folder),
    "a seed too large": Case(NEW + " --seed 4294967296", "seed", after=no_folder),
    "half a client": Case(NEW + " --sampling.cohort 5.5", r"cohort.*5\.5", after=no_folder),
    "a file in the way": Case(NEW, "new", file_in_the_way),
    "below a file": Case(NEW + "/run", "new", file_in_the_way),
    "where nothing can be written": Case("train {home}/tiny.py --out /proc/nothing/run", "/proc/nothing"),
    "from another algorithm": Case(
        NEW + " --resume-from {home}/run --fed.algorithm scaffold", "(?i)scaffold|algorithm", after=no_folder
    ),
    "a black image": Case(
        "explain {home}/run {home}/black.png --methods gradinput --out {home}/new",
        "",
        black_image,
        lambda place: re.search("review", (place.home / "new" / "black.png" / "index.html").read_text()).start(),
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """A home that every case copies."""
    home = tmp_path_factory.mktemp("finished") / "home"
    fill(home / "images", {"Training": 14, "Testing": 6})
    (home / "tiny.py").write_text(CONFIG.format(root=str(home / "images")))
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(home / "run")]) == 0
    return home


@pytest.fixture
def place(finished, tmp_path) -> Place:
    """A copy of the home that knows only itself."""
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    for path in (home / "tiny.py", home / "run" / "config.json"):
        path.write_text(path.read_text().replace(str(finished), str(home)))
    return Place(home)


def one_line(errors: str) -> str:
    """The one line on stderr that names an error."""
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in errors, errors
    return lines[0]


THOROUGH = ("a rate too high",)  # a mistake of cli/test_cli.py


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in THOROUGH else name for name in CASES]
)
def test_a_mistake_is_one_line_and_loses_nothing(name: str, place: Place, capfd) -> None:
    case = CASES[name]
    case.prepare(place)
    code = cli.main([word.format(home=place.home) for word in case.command.split()])
    errors = capfd.readouterr().err
    if case.says:
        assert code == 1 and re.search(case.says, one_line(errors)), errors
    else:
        assert code == 0 and "error: " not in errors, errors
    case.after(place)


def test_a_study_without_a_possible_cell_says_why_and_its_folder_takes_the_corrected_one(place, capsys) -> None:
    study_of("1000, 1000 + 1")(place)
    assert cli.main(["sweep", str(place.home / "study.py"), "--out", str(place.home / "new")]) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if "cohort" in line and "failed" in line]
    assert len(said) == 2, said  # two reasons, as the line names the value
    corrected_study(place)


def test_a_folder_that_is_written_is_refused(place, capsys) -> None:
    with lock.hold(place.home / "run"):
        assert cli.main(["train", str(place.home / "tiny.py"), "--out", str(place.home / "run"), "--rounds", "8"]) == 1
    assert f"process {os.getpid()}" in one_line(capsys.readouterr().err)
    same_run(place)
