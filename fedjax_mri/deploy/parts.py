"""The parts of a federation of real hospitals: what each tells of its data, and the simulation made of it."""

import json
import os
import pathlib
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.contract import ClientData, DataDescription, Federation
from fedjax_mri.data.merge import relabelled
from fedjax_mri.data.pooled import pool
from fedjax_mri.data.resident import whole
from fedjax_mri.deploy.site import Refusal, Site
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, check_simulation, state_shapes
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder
from fedjax_mri.run.assemble import assemble_simulation, build_federation, build_method, describe
from fedjax_mri.run.config import Experiment

ALIKE = ("image", "modalities", "window", "pictures")  # what must be the same of the data of all hospitals
SIMULATED = ("Asynchronous", "Diurnal", "Markov", "Trace")  # samplers that play who is there, and when


class Roster(NamedTuple):
    """What is known of all hospitals, none of whose examples leaves it; plain data."""

    names: list[str]
    examples: list[int]
    patients: list[int] | None  # None where a hospital does not know whose each example is
    described: dict[str, Any]  # a `DataDescription`
    synthetic: bool  # whether a hospital's images are synthetic


def refusals(config: Experiment) -> list[str]:
    """Returns a line, with its remedy, for each part of a config that real hospitals cannot do."""
    names = {name: type(getattr(config, name)).__name__ for name in ("sampling", "conditions", "attack", "secure")}
    found = []
    if names["sampling"] in SIMULATED:
        text = "plays when hospitals are there, and real ones say so by coming"
        found.append(
            f"sampling {names['sampling']}: {text}; choose --fed.sampling everyone, uniform, poisson or cyclic"
        )
    if names["conditions"] != "Ideal":
        text = "plays slow and failing hospitals; real ones are by themselves"
        found.append(f"conditions {names['conditions']}: {text}; choose --fed.conditions ideal, and set round-seconds")
    if names["attack"] != "Off":
        found.append(f"attack {names['attack']}: is for simulations; choose --fed.attack off")
    if names["secure"] != "Off":
        text = (
            "the compiled masks hide nothing between machines, and the protocol of fedjax_mri/secure is not in Flower"
        )
        found.append(f"secure {names['secure']}: {text}; choose --fed.secure off, see docs/deploy.md")
    if getattr(config.privacy, "audit", 0):
        found.append("privacy.audit: canaries are clients that do not exist; give --privacy.audit 0")
    if config.algorithm.build().member is not None:
        found.append("algorithm: an ensemble needs all clients' models at the server; choose --fed.algorithm fedavg")
    for name in ("finetune", "distil"):
        if getattr(config, name).epochs:
            text = "needs examples or models of all clients at the server after the last round"
            found.append(f"{name}.epochs: {text}; give --{name}.epochs 0")
    if config.early.patience:
        found.append("early.patience: the server has no examples to judge by; give --early.patience 0")
    return found


def site_data(config: Experiment) -> Federation:
    """Returns the data of a config as those of one hospital. Raises UserError on unusable data."""
    federation = build_federation(config)
    train, labels = federation.train, np.asarray(federation.labels).sum(0, keepdims=True)
    return federation._replace(train=train if len(train.sizes) == 1 else pool(train), labels=labels)


def facts_of(site: Site, federation: Federation) -> dict[str, Any]:
    """Returns what a hospital tells the server of its data, as plain data."""
    train, described = federation.train, describe(federation)
    patients = None if train.patients is None else int(train.patients[0])
    return {"name": site.name, "client": site.client, "examples": int(train.sizes[0]), "patients": patients,
            "synthetic": federation.synthetic, **described._asdict()}  # fmt: skip


def roster_of(facts: list[dict[str, Any]]) -> Roster:
    """Returns what all hospitals have told. Raises UserError where their data do not fit together."""
    facts = sorted(json.loads(json.dumps(facts)), key=lambda one: one["client"])
    first = facts[0]
    for one in facts:
        for name in ALIKE:
            if one[name] != first[name]:
                raise UserError(f"{name}: {first['name']} has {first[name]}, {one['name']} has {one[name]}; "
                                "prepare the images of all hospitals alike")  # fmt: skip
        if not one["examples"]:
            raise UserError(f"{one['name']}: has no example to train on; leave this hospital out, or fill its folder")
    same = all(one["classes"] == first["classes"] for one in facts)
    classes = first["classes"] if same else sorted({name for one in facts for name in one["classes"]})
    counts = [sum(dict(zip(one["classes"], one["labels"])).get(name, 0) for one in facts) for name in classes]
    spacing = first["spacing"] if all(one["spacing"] == first["spacing"] for one in facts) else []
    described = {name: first[name] for name in DataDescription._fields} | {
        "classes": classes, "clients": len(facts), "labels": counts, "spacing": spacing}  # fmt: skip
    patients = [one["patients"] for one in facts]
    names, examples = [one["name"] for one in facts], [one["examples"] for one in facts]
    synthetic = any(one["synthetic"] for one in facts)
    return Roster(names, examples, None if None in patients else patients, described, synthetic)


def simulation(config: Experiment, roster: Roster, federation: Federation | None) -> tuple[Simulation, Plan]:
    """Returns the simulation of which a hospital with that data, or without any the server, computes its part.

    Raises UserError on bad settings, and where examples are not what the task reads.
    """
    plan = replace(config.plan, devices=1, lanes=1, loop="segment", data="replicated", clients="device").resolve()
    described = runfolder.description(roster.described)
    data = ClientData(np.zeros(0, np.int32), (), _no_examples)
    if federation is not None:
        table = np.array([described.classes.index(name) for name in federation.classes], np.int32)
        train = relabelled(federation.train, table)
        data = train._replace(store=whole(train), fetch=None)
    patients = None if roster.patients is None else np.array(roster.patients, np.int32)
    data = data._replace(sizes=np.array(roster.examples, np.int32), patients=patients)
    sim = assemble_simulation(config, build_method(config), described, data, plan)
    if federation is None:
        check_simulation(sim, plan)
    else:
        check.contents(federation._replace(classes=described.classes), sim.task.reads, type(config.data).__name__)
    if federation is None and config.init_from and jax.tree.leaves(state_shapes(sim).clients.model):
        raise UserError(
            "init_from: parts of the model stay with the hospitals, which do not have that file; leave it out"
        )
    return sim, plan


def _no_examples(*_: Any) -> Any:
    raise AssertionError("the server has no examples")


def root_key(config: Experiment, secret: pathlib.Path | None) -> jax.Array:
    """Returns the key of all random numbers of a run: by 64 secret bits kept in a file, or by the config's seed."""
    if secret is None:
        return jax.random.key(config.seed)
    if not secret.exists():
        secret.parent.mkdir(parents=True, exist_ok=True)
        draft = secret.with_suffix(".part")
        with open(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
        ) as file:  # nobody else may read it
            file.write(os.urandom(8))
        draft.replace(secret)
    return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(secret.read_bytes(), np.uint32)))


def experiments(folder: pathlib.Path) -> dict[str, Experiment]:
    """Returns the experiments of a folder that `deploy` wrote, by their names. Raises UserError where it has none."""
    files = sorted(folder.glob("experiments/*/config.json"))
    found = {path.parent.name: runfolder.read_config(path.parent) for path in files}
    if not found:
        raise UserError(f"{folder}: no experiments there; give a folder that `fedjax-mri deploy` wrote")
    return found


def experiment(folder: pathlib.Path, name: str, digest: str) -> Experiment:
    """Returns an experiment of a folder. Raises UserError where it is not the one of that digest."""
    found = experiments(folder)
    if name not in found:
        raise Refusal(f"experiment {name}: is not in {folder}, which has {', '.join(found)}")
    if configs.digest(found[name]) != digest:
        raise Refusal(f"experiment {name}: config {configs.digest(found[name])} here, {digest} at the server; "
                        "write both folders by one `fedjax-mri deploy`")  # fmt: skip
    return found[name]


def without_files(config: Experiment) -> Experiment:
    """Returns a config as a hospital uses it: weights to begin with are at the server, which sends its model."""
    return replace(config, init_from="")
