"""What `show` says before a run: rules that cannot work are refused, and attackers that outnumber a rule are named."""

import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import config, costs
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

EXPERIMENT = Experiment(
    name="costs",
    data=Synthetic(clients=20, validation=0.1),
    task=Classify(network=LinearSettings()),
    local=LocalTraining(optimizer="optax.sgd"),
    sampling=Uniform(cohort=10),
    plan=Plan(devices=1, lanes=1, tune_s=0),
)


def told(flags: str) -> dict[str, str]:
    return costs.costs(config.override(EXPERIMENT, flags.split()))


def test_attackers_are_counted_and_more_than_the_rule_is_for_are_named() -> None:
    attack = "--fed.attack signflip --attack.share 0.5 --fed.uplink.reduce trimmedmean --uplink.reduce.faulty"
    words = "10 of 20 clients attack by {}, 5 of a cohort of 10 on average, and trimmedmean is for 2; set"
    assert told(f"{attack} 2")["attackers"].startswith(words.format("signflip"))
    omniscient = attack.replace("signflip", "alie")
    assert told(f"{omniscient} 2")["attackers"].startswith(words.format("alie"))
    few = "4 of 20 clients attack by signflip, 2 of a cohort of 10 on average"
    assert told(f"{attack.replace('0.5', '0.2')} 2")["attackers"] == few
    assert told("--fed.attack signflip")["attackers"] == few and "attackers" not in told("")


def test_a_rule_that_the_cohort_is_too_small_for_is_refused() -> None:
    with pytest.raises(UserError, match="krum"):
        told("--fed.uplink.reduce krum --uplink.reduce.faulty 9")
