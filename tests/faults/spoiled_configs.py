"""Random configs with one bad field, and the check that a run refuses each with one line that names the field."""

import math
import pathlib
import shutil
from typing import Any, NamedTuple

from drawn_configs import valid_configs
from hypothesis import strategies as st

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment
from fedjax_mri.run.config import Experiment

NUMBERS = (math.nan, math.inf, -1.0)  # no size, rate, share or seconds
COUNTS = (0, -1)
OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "rounds": COUNTS,
    "evaluate_every": COUNTS,
    "keep": COUNTS,
    "seed": (-1, 2**32),
    "init_from": ("/nowhere/at/all",),
    "explanations": (("gradcma",),),
    "local.epochs": COUNTS,
    "local.batch": COUNTS,
    "local.learning_rate": (*NUMBERS, 0.0),
    "local.decay": NUMBERS,
    "local.optimizer": ("optax.sgdd", "adam", ""),
    "local.schedule": ("cosinus",),
    "local.schedule_start": (-1, 99),
    "local.schedule_end": NUMBERS,
    "local.schedule_rounds": (-1,),
    "sampling.cohort": (*COUNTS, 1000),
    "sampling.without": (-2, 1000),
    "sampling.rate": (*NUMBERS, 0.0, 1.5),
    "sampling.day": (*NUMBERS, 0.0),
    "sampling.awake": (*NUMBERS, 1.5),
    "sampling.spread": (*NUMBERS, 1.5),
    "sampling.present": (*NUMBERS, 0.5),
    "sampling.absent": (*NUMBERS, 0.5),
    "sampling.buffer": (*COUNTS, 1000),
    "sampling.concurrency": (*COUNTS, 1000),
    "sampling.latest": (-1, 1000),
    "sampling.jitter": NUMBERS,
    "sampling.speeds.steps_per_s": (*NUMBERS, 0.0),
    "sampling.speeds.mbit_up": (*NUMBERS, 0.0),
    "sampling.speeds.mbit_sigma": NUMBERS,
    "sampling.speeds.correlation": (math.nan, -2.0, 2.0),
    "sampling.speeds.table": ("/nowhere/at/all.csv",),
    "conditions.share": (*NUMBERS, 1.5),
    "conditions.late": ("later",),
    "conditions.jitter": NUMBERS,
    "conditions.deadline_s": NUMBERS,
    "conditions.partial": ("half",),
    "conditions.lost_before": (*NUMBERS, 1.5),
    "conditions.lost_after": (*NUMBERS, 1.5),
    "conditions.speeds.steps_per_s": (*NUMBERS, 0.0),
    "uplink.weight": ("sizes",),
    "uplink.clip": NUMBERS,
    "uplink.stages.0.bound": (*NUMBERS, 0.0),
    "uplink.reduce.divisor": ("both",),
    "algorithm.server_rate": (*NUMBERS, 0.0),
    "algorithm.rate": (*NUMBERS, 0.0),
    "algorithm.mu": NUMBERS,
    "algorithm.alpha": (*NUMBERS, 0.0),
    "algorithm.option": ("III",),
    "algorithm.look": (*NUMBERS, 1.0),
    "algorithm.momentum": (*NUMBERS, 1.0),
    "algorithm.beta1": (*NUMBERS, 1.0),
    "algorithm.beta2": (*NUMBERS, 1.0),
    "algorithm.tau": (*NUMBERS, 0.0),
    "algorithm.optimizer": ("optax.sgdd",),
    "algorithm.strength": NUMBERS,
    "algorithm.power": NUMBERS,
    "algorithm.oldest": (-1,),
    "algorithm.head_share": (*NUMBERS, 0.0, 1.0),
    "algorithm.head": (("no such layer",),),
    "algorithm.norms": (("no such layer",),),
    "task.statistics": ("mean",),
    "task.weight_decay": NUMBERS,
    "task.label_smoothing": (*NUMBERS, 1.5),
    "task.class_weights": ((1.0,), (1.0, 1.0, 1.0), (math.nan, 1.0)),
    "task.mixup": (*NUMBERS, 1.5),
    "task.frozen": (("no such layer",),),
    "task.augment.flip": (*NUMBERS, 1.5),
    "task.augment.rotate_deg": NUMBERS,
    "task.network.widths": ((), (0,), (9,), (4, 4, 4, 4)),
    "task.network.hidden": (-1,),
    "task.network.norm": ("layer",),
    "task.network.convs": COUNTS,
    "task.network.pool": ("max",),
    "finetune.epochs": (-1,),
    "distil.epochs": (-1,),
    "early.patience": (-1,),
    "early.figure": ("accuracy of nothing",),
    "plan.devices": (-1, 1000),
    "plan.lanes": (-1,),
    "plan.conv": ("gem",),
    "plan.precision": ("float16",),
    "plan.loop": ("rounds",),
    "plan.data": ("disk",),
    "plan.clients": ("disk",),
    "plan.members": ("all",),
    "plan.memory_mb": (-1,),
    "plan.evaluate_batch": COUNTS,
    "plan.tune_s": (math.nan, -1.0),
}
WRONG_TYPES: dict[type, tuple[Any, ...]] = {  # of a field that holds a value of that type
    bool: ("yes", None),
    int: ("three", 2.5, None, (1,)),
    float: ("0.1", None, (0.1,)),
    str: (3, None),
    tuple: (3, None),
}
NO_SECTIONS = ("fedprox", FedProx, None, 3)  # a name, a class, nothing: what a section is mistaken for
SECTIONS = ("data", "task", "local", "sampling", "conditions", "uplink", "algorithm", "plan", "early")


class Spoiled(NamedTuple):
    """A config in which one field is to have a bad value."""

    config: Experiment
    field: str
    value: Any


@st.composite
def spoiled_configs(draw: st.DrawFn) -> Spoiled:
    """Draws a config, one of its fields, and a bad value for it: out of range, or of another type."""
    config = draw(valid_configs())
    fields = configs.flat(config)
    kind = draw(st.sampled_from(["range", "range", "type", "section"]))
    if kind == "section":
        return Spoiled(config, draw(st.sampled_from(SECTIONS)), draw(st.sampled_from(NO_SECTIONS)))
    if kind == "range":
        field = draw(st.sampled_from([name for name in fields if name in OUT_OF_RANGE]))
        return Spoiled(config, field, draw(st.sampled_from(OUT_OF_RANGE[field])))
    typed = {name: WRONG_TYPES[type(value)] for name, value in fields.items() if is_leaf(config, name)}
    field = draw(st.sampled_from(list(typed)))
    return Spoiled(config, field, draw(st.sampled_from(typed[field])))


def is_leaf(config: Experiment, name: str) -> bool:
    """Whether a name of `configs.flat` is a field with a value, and not a section."""
    value: Any = config
    for part in name.split("."):
        value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
    return type(value) in WRONG_TYPES


def assert_refused_in_one_line(spoiled: Spoiled, out: pathlib.Path) -> None:
    """Runs a spoiled config: one line that names the field, or the file, and nothing written."""
    try:
        config = configs.with_field(spoiled.config, spoiled.field, spoiled.value)
        experiment.run(config, out, say=lambda line: None)
    except UserError as error:
        said, name = str(error), spoiled.field.split(".")[-1]
    else:
        raise AssertionError(f"{spoiled.field}={spoiled.value!r} was accepted")
    finally:
        written = (out / "config.json").exists()
        shutil.rmtree(out, ignore_errors=True)
    assert "\n" not in said and len(said) < 400, said
    is_path = isinstance(spoiled.value, str) and spoiled.value.startswith("/")
    assert name in said or name.replace("_", "-") in said or (is_path and spoiled.value in said), said
    assert not written, "a refused config was written"
