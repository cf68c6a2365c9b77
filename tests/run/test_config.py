"""Configs: read from Python, changed by flags, written and read back; mistakes named."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.partition import Dirichlet
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.fed.sampling import Everyone, Poisson, Uniform
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import Clip
from fedjax_mri.fed.world.conditions import Stragglers
from fedjax_mri.fed.world.speeds import ClientSpeeds
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.nets.translation import GeneratorSettings
from fedjax_mri.run import config as configs
from fedjax_mri.run import group, parts
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN
from fedjax_mri.tasks.extras import Extras
from fedjax_mri.tasks.pix2pix import Pix2Pix
from fedjax_mri.tasks.unit import UNIT

SHIPPED = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
BASE = Experiment(data=Phantom())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_survive_a_round_trip_through_json(path) -> None:
    for one in configs.load(path).values():
        plain = json.loads(json.dumps(configs.to_dict(one)))
        assert configs.from_dict(plain) == one
        assert configs.digest(configs.from_dict(plain)) == configs.digest(one)


@pytest.mark.parametrize(
    "one",
    [
        Experiment(data=Pooled(Phantom(size=128)), sampling=Everyone()),
        Experiment(data=Folder("x", partition=Dirichlet(3, 0.1))),
        Experiment(data=Phantom(), task=Classify(network=ResNetSettings(depth=50, norm="batch"))),
        Experiment(data=Phantom(), task=CycleGAN(generator=GeneratorSettings(width=8), extras=Extras(ssim=1.0))),
        Experiment(data=Phantom(), task=Pix2Pix(to="ct")),
        Experiment(data=Phantom(), task=UNIT(window=None)),
    ],
)
def test_nested_choices_survive_too(one) -> None:
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(one)))) == one


def test_a_config_of_another_version_is_refused_with_the_field() -> None:
    plain = configs.to_dict(BASE)
    plain["task"]["widths"] = [16, 32]
    with pytest.raises(UserError, match=r"^Classify\.widths: not a field of this version"):
        configs.from_dict(plain)


def test_flags_reach_every_depth() -> None:
    flags = "--rounds 7 --local.optimizer optax.sgd --data.sites.mr-noise 0 0.1 --sampling.cohort 5"
    changed = configs.override(BASE, [*flags.split(), "--task.network.widths", "8", "16"])
    assert (changed.rounds, changed.local.optimizer, changed.sampling.cohort) == (7, "optax.sgd", 5)
    assert (changed.data.sites.mr_noise, changed.task.network.widths) == ((0.0, 0.1), (8, 16))
    assert configs.override(BASE, []) == BASE


def test_parts_are_chosen_by_name_and_then_set() -> None:
    flags = "--fed.sampling poisson --sampling.rate 0.2 --fed.conditions stragglers --conditions.speeds.steps-per-s 3"
    changed = configs.override(BASE, flags.split())
    assert changed.sampling == Poisson(0.2)
    assert changed.conditions == Stragglers(ClientSpeeds(steps_per_s=3.0))


@pytest.mark.parametrize("part", ["sampling", "conditions"])
def test_every_part_can_be_named_and_survives_json(part) -> None:
    for kind in parts.settings(part).values():
        one = dataclasses.replace(BASE, **{part: kind()})
        assert configs.from_dict(json.loads(json.dumps(configs.to_dict(one)))) == one


def test_samplers_of_old_run_folders_are_still_found() -> None:
    plain = {"class": "fedjax_mri.fed.sampling.Uniform", "cohort": 7}
    assert configs.from_dict(plain) == Uniform(7)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--local.epoch 3", r"unknown field --local.epoch; did you mean --local.epochs\?"),
        ("--rnds 3", r"unknown field --rnds; did you mean --rounds\?"),
        ("--rounds many", "many"),
        ("--local.schedule sometimes", "sometimes"),
        ("--rounds 0", "rounds=0: must be 1 or more"),
    ],
)
def test_bad_flags_are_named(flags, says) -> None:
    with pytest.raises(UserError, match=says) as error:
        configs.override(BASE, flags.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rate": float("nan")}, "local.learning_rate=nan"),
        ({"learning_rate": -1.0}, "local.learning_rate=-1.0"),
        ({"batch": 0}, "local.batch=0"),
        ({"optimizer": "optax.adm"}, r"did you mean optax.adam\?"),
        ({"optimizer": "adam"}, "give a path such as optax.adam"),
        ({"optimizer": "nowhere.adam"}, "cannot import 'nowhere'"),
    ],
)
def test_bad_local_settings_are_named(change, says) -> None:
    with pytest.raises(UserError, match=says):
        dataclasses.replace(LocalTraining(), **change).build(10)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("config = 3", "must define"),
        ("x = 1", "must define"),
        ("import nothing_here", "nothing_here"),
        ("config = (", "SyntaxError"),
    ],
)
def test_bad_config_files_are_named(tmp_path, content, says) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError, match=says) as error:
        configs.load(path)
    assert str(path) in str(error.value)


def test_a_missing_config_file_is_named() -> None:
    with pytest.raises(UserError, match="no such config file"):
        configs.load("configs/absent.py")


@pytest.mark.parametrize(("schedule", "end"), [("constant", 0.1), ("cosine", 0.02), ("linear", 0.02)])
def test_schedules_start_at_the_rate_and_stay_at_their_end(schedule, end) -> None:
    import jax.numpy as jnp

    local = LocalTraining(learning_rate=0.1, schedule=schedule, schedule_rounds=10, schedule_end=0.2).build(99)
    rates = [float(local.schedule(jnp.int32(round))) for round in (0, 10, 50)]
    assert rates == pytest.approx([0.1, end, end])


def test_one_cycle_rises_and_falls() -> None:
    """Smith 2018: from a twenty-fifth of the rate to all of it at three tenths, then down."""
    import jax.numpy as jnp

    local = LocalTraining(learning_rate=0.1, schedule="onecycle").build(10)
    rates = [float(local.schedule(jnp.int32(round))) for round in range(11)]
    assert (rates[0], rates[3], rates[10]) == pytest.approx((0.004, 0.1, 0.0))
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert float(LocalTraining(schedule="onecycle").build(1).schedule(jnp.int32(0))) == pytest.approx(1e-3)


def test_decay_with_adam_is_adamw_and_rates_scale_both_by_path() -> None:
    import jax
    import jax.numpy as jnp
    import optax

    params = {"stem": jnp.array([1.0, -2.0]), "logits": jnp.array([3.0])}
    grads = jax.tree.map(lambda x: 0.3 * x + 1, params)

    def update(optimizer) -> dict:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(grads, optimizer.init(params), params)[0]

    wanted = update(optax.adamw(0.01, weight_decay=0.2))
    got = update(LocalTraining(decay=0.2).build(1).optimizer(jnp.float32(0.01)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, wanted)
    slow = LocalTraining(decay=0.2, rates=(("stem", 0.1), ("*", 2.0))).build(1).optimizer(jnp.float32(0.01))
    wanted = {"stem": 0.1 * wanted["stem"], "logits": 2 * wanted["logits"]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), update(slow), wanted)
    with pytest.raises(UserError, match=r"local.rates: 'stm' matches nothing"):
        LocalTraining(rates=(("stm", 0.1),)).build(1).optimizer(jnp.float32(0.01)).init(params)
    with pytest.raises(UserError, match=r"local.rates stem=-1"):
        LocalTraining(rates=(("stem", -1.0),)).build(1)


def test_rates_and_patterns_by_flags() -> None:
    flags = "--local.rates stem 0.1 blocks 0.3 --task.frozen stem blocks --task.class-weights balanced --init-from x"
    changed = configs.override(BASE, flags.split())
    assert changed.local.rates == (("stem", 0.1), ("blocks", 0.3)) and changed.task.frozen == ("stem", "blocks")
    assert (changed.task.class_weights, changed.init_from) == ("balanced", "x")
    weighted = configs.override(BASE, ["--task.class-weights", "1", "2", ".5"])
    assert weighted.task.class_weights == (1.0, 2.0, 0.5)
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(changed)))) == changed


def test_a_schedule_may_start_late() -> None:
    """Constant for the first half, then down to nothing, as translation has it."""
    import jax.numpy as jnp

    local = LocalTraining(learning_rate=0.1, schedule="linear", schedule_start=10).build(20)
    rates = [float(local.schedule(jnp.int32(round))) for round in (0, 10, 15, 20)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.0])
    with pytest.raises(UserError, match="schedule_start=20"):
        LocalTraining(schedule="linear", schedule_start=20).build(20)


def test_numbers_of_stages_are_axes_like_all_others() -> None:
    """Stages in a tuple are sections: their fields are flags, fields of a saved config, and numbers of one program."""
    base = Experiment(data=Phantom(), uplink=UplinkSettings(stages=(Clip(2.0),)))
    other = configs.with_field(base, "uplink.stages.0.bound", 3.0)
    assert configs.flat(other)["uplink.stages.0"] == "Clip" and configs.flat(other)["uplink.stages.0.bound"] == 3.0
    assert configs.override(base, ["--uplink.stages.0.bound", "3"]) == other
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(other)))) == other
    assert group.program_settings(base) == group.program_settings(other)
    assert group.differing_numbers([base, other]) == ["uplink.stages.0.bound"]
    with pytest.raises(UserError, match=r"unknown field uplink\.stages\.1"):
        configs.with_field(base, "uplink.stages.1.bound", 3.0)
    with pytest.raises(UserError, match="did you mean clip"):
        configs.override(base, ["--fed.uplink.stages", "clp"])
