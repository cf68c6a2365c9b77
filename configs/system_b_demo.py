"""System B's experiments at a size that two cores can train: 64 px, a twelfth of the images, a narrower network.

Command: fedjax-mri train configs/system_b_demo.py
Hardware and time: 25 minutes on 2 busy cores; docs/classification.md has the figures. Data, flags: as `system_b.py`.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.core.dotted import with_values
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, flat, load


def small(one: Experiment) -> Experiment:
    """The experiment with smaller images, fewer of them, and a network and batches to fit."""
    fields = {name: value for name, value in flat(one).items() if name.startswith("data.")}
    sizes = {name: 64 for name, value in fields.items() if name.endswith(".size") and value == 224}
    tested = {name: 25 for name in fields if name.endswith(".test_patients")}
    totals = {name: value // 12 for name, value in fields.items() if name.endswith(".patients_total")}
    task = replace(
        one.task,
        network=CNNSettings(widths=(16, 32, 64, 64), hidden=64, norm="batch"),
        preprocess=replace(one.task.preprocess, size=64),
    )
    local = replace(one.local, batch=8)
    return replace(with_values(one, {**sizes, **tested, **totals}), task=task, local=local, rounds=20)


configs = {name: small(one) for name, one in load(pathlib.Path(__file__).with_name("system_b.py")).items()}
