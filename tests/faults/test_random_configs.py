"""Random configs: valid ones train as the plain loop over clients does, others are refused with one line.

The draws are the same each time. `scripts/random_configs.py` draws others, and more of them.
"""

import pathlib

import pytest
from drawn_configs import (
    ALGORITHMS,
    ATTACKS,
    CONDITIONS,
    MOSTLY_LINEAR,
    REDUCTIONS,
    SAMPLERS,
    STAGES,
    assert_trains_as_plain_loop,
    valid_configs,
)
from hypothesis import HealthCheck, Phase, given, settings
from spoiled_configs import OUT_OF_RANGE, assert_refused_in_one_line, spoiled_configs
from test_attacks import CRAFTED
from test_rules import CASES as RULES
from tiny import Grey

from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import Clip
from fedjax_mri.run import config as configs
from fedjax_mri.run import parts
from fedjax_mri.run.config import Experiment

FEW = settings(
    max_examples=40,
    database=None,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@settings(FEW, max_examples=3)  # each compiles a program for seconds; scripts/random_configs.py tries more
@given(valid_configs(MOSTLY_LINEAR))
def test_a_valid_config_trains_as_the_plain_loop(config: Experiment) -> None:
    assert_trains_as_plain_loop(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("spoiled")


@FEW
@given(spoiled=spoiled_configs())
def test_a_config_with_a_bad_field_is_refused_in_one_line(spoiled, folder: pathlib.Path) -> None:
    assert_refused_in_one_line(spoiled, folder / "run")


DRAWN = {
    "algorithm": ALGORITHMS,
    "sampling": {**SAMPLERS, "trace": None},  # needs a file
    "conditions": CONDITIONS,
    "attack": ATTACKS,
    "uplink.stages": STAGES,
    "uplink.reduce": REDUCTIONS,
}


@pytest.mark.parametrize("part", DRAWN)
def test_every_part_that_can_be_chosen_is_drawn(part: str) -> None:
    """Or is compared with NumPy: robust rules, their momentum, omniscient attacks, and updates that are not finite."""
    attacks = {type(attack).__name__.lower() for attack, _ in CRAFTED.values()}
    attacks |= {"mimic", "notfinite", "optimalalie", "optimalipm"}
    rules = {type(uplink.reduce).__name__.lower() for uplink, _ in RULES.values()}
    elsewhere = {"uplink.reduce": rules, "uplink.stages": {"momentum"}, "attack": attacks}
    assert DRAWN[part].keys() | elsewhere.get(part, set()) == parts.settings(part).keys()


def test_bad_values_are_of_fields_that_there_are() -> None:
    base = Experiment(data=Grey(), uplink=UplinkSettings(stages=(Clip(),)))
    names = set(configs.flat(base))
    for part in ("algorithm", "sampling", "conditions"):
        for kind in parts.settings(part).values():
            names |= configs.flat(configs.with_field(base, part, kind())).keys()
    assert OUT_OF_RANGE.keys() <= names
