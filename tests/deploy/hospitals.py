"""Four hospitals with folders of small pictures, and the simulation of all of them."""

import pathlib

import jax
import numpy as np
from PIL import Image

from fedjax_mri.cli import commands as cli
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import initial_state
from fedjax_mri.run.assemble import assemble, build_federation, describe

NAMES = "lyon", "turin", "basel", "porto"
COUNTS = {
    "lyon": (3, 4),
    "turin": (7, 0),
    "basel": (2, 5),
    "porto": (4, 6),
}  # pictures of each class; one lacks a class
CONFIG = """
from fedjax_mri.data.folder import Folder
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import config as configs_of
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

base = Experiment(
    name="small",
    data=Folder(root={root!r}, size=8, layout="split/site/class", validation=0.0),
    task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=2, batch=4, learning_rate=0.05, optimizer="optax.sgd"),
    sampling=Everyone(),
    rounds=3,
)
configs = {{name: configs_of.override(base, flags) for name, flags in {flags!r}.items()}}
"""
PERSONAL = """
from dataclasses import dataclass
from fedjax_mri.fed.algorithms.fedopt import FedAdam
from fedjax_mri.fed.algorithms.fedper import FedPer

@dataclass(frozen=True)
class Personal:
    def build(self):
        return FedPer(head=("bias",), base=FedAdam()).build()
"""


def write_images(folder: pathlib.Path) -> None:
    """Writes the pictures of each hospital into a folder of its own, and all of them into the folder `all`."""
    rng = np.random.default_rng(0)
    for site, counts in COUNTS.items():
        for split, some in (("Training", counts), ("Testing", [min(count, 1) for count in counts])):
            for label, count in enumerate(some):
                pixels = rng.normal(100 + 40 * label, 50, (count, 8, 8)).clip(0, 255).astype(np.uint8)
                for number, image in enumerate(pixels):
                    for root in (folder / "all", folder / site):
                        place = root / split / site / f"class{label}"
                        place.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(image).save(place / f"{number}.png")


def write_config(folder: pathlib.Path, flags: dict[str, list[str]]) -> pathlib.Path:
    """Writes a config of experiments that differ from FedAvg by flags, and a user's algorithm; returns its path.

    In a flag {own} is the algorithm's file: FedPer, whose shared part is learnt by FedAdam.
    """
    path, own = folder / "small.py", folder / "personal.py"
    own.write_text(PERSONAL)
    flags = {name: [word.format(own=own) for word in words] for name, words in flags.items()}
    path.write_text(CONFIG.format(root=str(folder / "all"), flags=flags))
    return path


def write_sites(
    folder: pathlib.Path, names=NAMES, superlink: str = "127.0.0.1:9092", **more: str
) -> list[pathlib.Path]:
    """Writes a hospital.toml for each hospital; returns their paths."""
    paths = []
    for client, name in enumerate(sorted(names)):  # as a simulation numbers them
        plain = {
            "name": name,
            "client": client,
            "clients": len(names),
            "superlink": superlink,
            "random_key": "config",
            **{key: value.format(name=name) for key, value in more.items()},
        }
        lines = [f"{key} = {value!r}" for key, value in plain.items()]
        paths.append(folder / f"{name}.toml")
        paths[-1].write_text("\n".join([*lines, "[data]", f"root = '{folder / name}'"]))
    return paths


def simulated(config):
    """Returns the state after the rounds of a simulation, on the host."""
    federation, plan = build_federation(config), Plan(devices=1, lanes=2, tune_s=0).resolve()
    sim = assemble(config, describe(federation), federation.train, plan)
    root = jax.random.key(config.seed)
    state, *_ = segments.build(sim, plan, root, config.rounds)(initial_state(sim, plan, root), config.rounds)
    return jax.device_get(state)


def deploy(folder: pathlib.Path, flags: dict[str, list[str]], **more) -> pathlib.Path:
    """Writes pictures, config and folders of a federation; returns the folder in which the server's and others lie."""
    write_images(folder)
    files = map(str, write_sites(folder, **more))
    config = write_config(folder, flags)
    assert cli.main(["deploy", str(config), "--site", *files, "--out", str(folder / "out")]) == 0
    return folder / "out"
