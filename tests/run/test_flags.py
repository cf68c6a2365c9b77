"""Flags of every kind, and every bad one in one line that names it, its value and what is expected."""

import os
import subprocess
import sys

import pytest

from fedjax_mri.cli import commands as cli
from fedjax_mri.convert import command as convert
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.explain import command as explain
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import Clip
from fedjax_mri.run import config as configs
from fedjax_mri.run.config import Experiment

BASE = Experiment(data=Phantom(), uplink=UplinkSettings(stages=(Clip(2.0),)))
FILES = Experiment(data=Folder("images"))
EVALUATE, CONVERT, EXPLAIN, PHANTOM = cli.Settings(Phantom()), convert.Settings(), explain.Settings(), Phantom()

BAD = [
    (BASE, "--sampling.cohort 5.5", "--sampling.cohort 5.5: must be a whole number"),
    (BASE, "--sampling.cohort=5.5", "--sampling.cohort 5.5: must be a whole number"),
    (BASE, "--rounds many", "--rounds many: must be a whole number"),
    (BASE, "--rounds", "--rounds: needs a whole number"),
    (BASE, "--rounds 3 4", "--rounds 3 4: must be a whole number"),
    (BASE, "--rounds 0", "rounds=0: must be 1 or more"),
    (BASE, "--seed -1", "--seed -1: must be a whole number from 0 to 4294967295"),
    (BASE, "--seed 4294967296", "--seed 4294967296: must be a whole number from 0 to 4294967295"),
    (BASE, "--local.learning-rate fast", "--local.learning-rate fast: must be a finite number"),
    (BASE, "--local.learning-rate nan", "--local.learning-rate nan: must be a finite number"),
    (BASE, "--local.learning-rate -inf", "--local.learning-rate -inf: must be a finite number"),
    (
        BASE,
        "--local.schedule sometimes",
        "--local.schedule sometimes: must be one of constant, cosine, linear, onecycle",
    ),
    (BASE, "--pictures maybe", "--pictures maybe: must be True or False"),
    (
        BASE,
        "--local.rates stem",
        "--local.rates stem: must be values, each a tuple (text, a finite number)",
    ),
    (BASE, "--task.network.widths 8 x", "--task.network.widths 8 x: must be whole numbers, separated by spaces"),
    (
        BASE,
        "--data.sites.mr-noise 0.1",
        "--data.sites.mr-noise 0.1: must be a tuple (a finite number, a finite number)",
    ),
    (BASE, "--uplink.stages.0.bound low", "--uplink.stages.0.bound low: must be a finite number"),
    (BASE, "--uplink.stages.1.bound 3", "unknown field --uplink.stages.1.bound; did you mean --uplink.stages.0.bound?"),
    (BASE, "--cohort 5", "unknown field --cohort; did you mean --sampling.cohort?"),
    (BASE, "--sampling.cohrot 5", "unknown field --sampling.cohrot; did you mean --sampling.cohort?"),
    (BASE, "--learning_rate 5", "unknown field --learning_rate; did you mean --local.learning-rate?"),
    (BASE, "--local.epoch 3", "unknown field --local.epoch; did you mean --local.epochs?"),
    (BASE, "--locla.epochs 3", "unknown field --locla.epochs; did you mean --local.epochs?"),
    (BASE, "--privcy.audit 9", "unknown field --privcy.audit; privacy has no fields; to choose another, give"),
    (
        BASE,
        "--algorithm.mu 1",
        "unknown field --algorithm.mu; algorithm has --algorithm.server-rate; to choose "
        "another, give --fed.algorithm NAME first",
    ),
    (
        BASE,
        "--attack.share 0.2",
        "unknown field --attack.share; attack has no fields; to choose another, give --fed.attack NAME first",
    ),
    (BASE, "--xyzzy 1", "unknown field --xyzzy; see `fedjax-mri show`"),
    (BASE, "--no-rounds", "unknown field --no-rounds; did you mean --rounds?"),
    (BASE, "--algorithm fedprox", "--algorithm fedprox: choose it by --fed.algorithm fedprox"),
    (BASE, "--local 3", "--local 3: is a section; local has --local.epochs, --local.batch, --local.steps"),
    (BASE, "fast --rounds 3", "unexpected 'fast': fields are set by --section.field value"),
    (BASE, "--fed.algorithm fedprx", "--fed.algorithm fedprx: did you mean fedprox?"),
    (FILES, "--data.split halves", "--data.split halves: must be one of published, grouped"),
    (FILES, "--data.size 9.5", "--data.size 9.5: must be a whole number"),
    (EVALUATE, "--data.size big", "--data.size big: must be a whole number"),
    (EVALUATE, "--data.image xray", "--data.image xray: must be one of mr, ct"),
    (EVALUATE, "--rounds 3", "unknown field --rounds"),
    (CONVERT, "--batch 1.5", "--batch 1.5: must be a whole number"),
    (CONVERT, "--btach 1", "unknown field --btach; did you mean --batch?"),
    (EXPLAIN, "--alpha small", "--alpha small: must be a finite number"),
    (EXPLAIN, "--seed -3", "--seed -3: must be a whole number from 0 to 4294967295"),
    (EXPLAIN, "--limits.pixel 3", "unknown field --limits.pixel; did you mean --limits.pixels?"),
    (PHANTOM, "--size huge", "--size huge: must be a whole number"),
    (PHANTOM, "--sites.mr-noise a b", "--sites.mr-noise a b: must be a tuple (a finite number, a finite number)"),
]


@pytest.mark.parametrize(("settings", "flags", "says"), BAD, ids=[row[1] for row in BAD])
def test_a_bad_flag_is_one_line(settings, flags, says) -> None:
    with pytest.raises(UserError) as error:
        configs.override(settings, flags.split())
    assert str(error.value).startswith(says) and "\n" not in str(error.value) and str(error.value).isascii()


GOOD = [
    ("--rounds=7", "rounds", 7),
    ("--rounds 3 --rounds 4", "rounds", 4),
    ("--local.learning_rate 1e-4", "local.learning_rate", 1e-4),
    ("--uplink.clip 3", "uplink.clip", 3.0),
    ("--pictures", "pictures", True),
    ("--pictures false", "pictures", False),
    ("--no-pictures", "pictures", False),
    ("--sampling.replace True", "sampling.replace", True),
    ("--data.sites.bias-field 0 0.2", "data.sites.bias_field", (0.0, 0.2)),
    ("--task.class-weights balanced", "task.class_weights", "balanced"),
    ("--task.class-weights 1 2 .5", "task.class_weights", (1.0, 2.0, 0.5)),
    ("--task.frozen", "task.frozen", ()),
    ("--task.preprocess.size 32", "task.preprocess.size", 32),
    ("--task.preprocess.size None", "task.preprocess.size", None),
    ("--task.preprocess.denoise median", "task.preprocess.denoise", "median"),
    ("--name a=b", "name", "a=b"),
    ("--name=--odd", "name", "--odd"),
    ("--explanations lrp gradcam", "explanations", ("lrp", "gradcam")),
    ("--uplink.stages.0.bound 3", "uplink.stages.0.bound", 3.0),
    ("--fed.sampling poisson --sampling.rate 0.5", "sampling.rate", 0.5),
]


@pytest.mark.parametrize(("flags", "field", "value"), GOOD, ids=[row[0] for row in GOOD])
def test_a_flag_is_read_as_its_field_is_annotated(flags, field, value) -> None:
    found = configs.flat(configs.override(BASE, flags.split()))[field]
    assert found == value and type(found) is type(value)


def test_a_bad_flag_is_one_line_of_ascii_where_the_output_is() -> None:
    """As a user meets it; the value may have letters that ASCII lacks."""
    words = [sys.executable, "-m", "fedjax_mri", "phantom", "--size", "gro\u00df"]
    encoding = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, env=encoding, timeout=120)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: --size gro\\xdf: must be a whole number\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("phantom --seed -1", "argument --seed: '-1': must be a whole number from 0 to 4294967295"),
        ("phantom --seed 4294967296", "argument --seed: '4294967296': must be a whole number from 0 to 4294967295"),
        ("phantom --sites few", "argument --sites: invalid int value: 'few'"),
        ("train", "the following arguments are required: config"),
        ("trian x.py", "invalid choice: 'trian'"),
    ],
)
def test_what_is_not_understood_is_one_line(words, says, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("error: ") and says in line and "--help" in line
