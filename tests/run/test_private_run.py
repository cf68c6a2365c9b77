"""A private run tells its budget beside its accuracy, and neither more rounds nor another folder forge it."""

import pathlib
from dataclasses import replace

import numpy as np
import pytest
from tiny import Grey

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.privacy.off import Off
from fedjax_mri.fed.sampling import Poisson, Population
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, restore
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.costs import costs
from fedjax_mri.run.line import parse
from fedjax_mri.run.runfolder import read_history
from fedjax_mri.tasks.classify import Classify

CONFIG = Experiment(
    Grey(clients=20),
    name="private",
    task=Classify(network=LinearSettings()),
    rounds=4,
    evaluate_every=2,
    local=LocalTraining(batch=8, optimizer="optax.sgd"),
    sampling=Poisson(0.3),
    privacy=Client(epsilon=5.0, delta=1e-3, audit=20),
    plan=Plan(devices=1, lanes=2, conv="xla", tune_s=0),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[pathlib.Path, list[str]]:
    """A finished run, and what it said."""
    out, said = tmp_path_factory.mktemp("private") / "run", list[str]()
    experiment.run(CONFIG, out, say=said.append)
    return out, said


def test_the_budget_is_said_logged_and_reported(run) -> None:
    out, said = run
    spent = [line["privacy/epsilon"] for line in read_history(out)]
    assert spent[0] == 0 and 0 < spent[1] < spent[2] and 4.99 < spent[2] <= 5
    (line,) = [line for line in said if line.startswith("privacy:")]
    assert f"epsilon {spent[2]:.4g} at delta 0.001 for each client after 4 rounds" in line
    assert line == f"privacy: {costs(CONFIG)['guarantee']}"
    figures = parse(read_history(out)[2]).privacy
    assert figures["epsilon"] == spent[2] and 0 <= figures["epsilon_lower"] < spent[2]
    cli.main(["report", str(out)])
    assert "privacy/epsilon" in (out / "report.html").read_text(encoding="utf-8")


def test_it_is_restored_and_evaluated(run) -> None:
    found = restore.evaluate_run(run[0], None, print)
    last = parse(read_history(run[0])[2]).tests
    for name, figures in found.items():
        assert figures.pooled["accuracy"] == pytest.approx(last[name].pooled["accuracy"])


def test_the_shipped_config_keeps_its_budget() -> None:
    shipped = configs.load(pathlib.Path(__file__).parents[2] / "configs" / "private.py")[""]
    everyone = Population(np.full(shipped.data.source.clients, 12, np.int32), rounds=shipped.rounds)
    promise = shipped.privacy.guarantee(shipped.sampling.build(everyone), everyone)
    assert (promise.budget, promise.delta) == (8, 1e-5) and 7.99 < promise.epsilon(shipped.rounds) <= 8


def test_more_rounds_would_need_more_noise_than_there_was(run) -> None:
    with pytest.raises(UserError, match=r"rounds=8: the noise of .* was found for the budget of its 4 rounds"):
        experiment.run(replace(CONFIG, rounds=8), run[0], say=print)


def test_a_known_noise_may_go_on_until_the_budget_is_spent(tmp_path) -> None:
    known = replace(CONFIG, privacy=Client(epsilon=5.0, delta=1e-3, noise=1.5), rounds=1, evaluate_every=1)
    experiment.run(known, tmp_path / "run", say=lambda _: None)
    with pytest.raises(UserError, match=r"privacy.epsilon=5.0: 90 rounds with noise multiplier 1.5 spend"):
        experiment.run(replace(known, rounds=90), tmp_path / "run", say=print)
    experiment.run(replace(known, rounds=2), tmp_path / "run", say=lambda _: None)


@pytest.mark.parametrize("privacy", [Off(), Client(epsilon=9.0, delta=1e-3)], ids=["not private", "another budget"])
def test_another_folder_does_not_forget_what_was_spent(run, tmp_path, privacy) -> None:
    with pytest.raises(UserError, match=r"a budget is kept in the folder of its run, .* give --init-from"):
        experiment.run(replace(CONFIG, privacy=privacy), tmp_path / "other", run[0], say=print)
    assert not (tmp_path / "other" / "config.json").exists()
