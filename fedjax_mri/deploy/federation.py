"""A federation of real hospitals: what each tells of its data, and the simulation of which each computes its part."""

import functools
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
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
from fedjax_mri.deploy import site
from fedjax_mri.deploy.site import Site
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, check_simulation, state_shapes
from fedjax_mri.run import runfolder
from fedjax_mri.run.assemble import assemble, assemble_task, build_algorithm, compute_of, describe
from fedjax_mri.run.config import Experiment

ALIKE = ("image", "modalities", "window", "pictures")  # what must be the same of the data of all hospitals
SIMULATED = ("Asynchronous", "Diurnal", "Markov", "Trace")  # samplers that play who is there, and when
Facts = Mapping[str, Any]  # what a hospital tells of its data, as JSON holds it


class Roster(NamedTuple):
    """What is known of all hospitals, none of whose examples leaves it, as JSON holds it."""

    names: list[str]
    examples: list[int]
    patients: list[int] | None  # None where a hospital does not know whose each example is
    described: dict[str, Any]  # a `DataDescription`
    synthetic: bool  # whether a hospital's images are synthetic


def refusals(config: Experiment) -> list[str]:
    """Returns a line, with its remedy, for each part of a config that real hospitals cannot do."""
    sampling, conditions, attack, secure = (
        type(part).__name__ for part in (config.sampling, config.conditions, config.attack, config.secure)
    )
    after = "needs examples or models of all clients at the server after the last round"
    lines = (
        (sampling in SIMULATED, f"sampling {sampling}: plays when hospitals are there, and real ones say so by coming; "
            "choose --fed.sampling everyone, uniform, poisson or cyclic"),
        (conditions != "Ideal", f"conditions {conditions}: plays slow and failing hospitals; real ones are by "
            "themselves; choose --fed.conditions ideal, and set round-seconds"),
        (attack != "Off", f"attack {attack}: is for simulations; choose --fed.attack off"),
        (secure != "Off", f"secure {secure}: the compiled masks hide nothing between machines, and the protocol of "
            "fedjax_mri/secure is not in Flower; choose --fed.secure off, see docs/deploy.md"),
        (getattr(config.privacy, "audit", 0),
            "privacy.audit: canaries are clients or patients that do not exist; give --privacy.audit 0"),
        (build_algorithm(config).member is not None,
            "algorithm: an ensemble needs all clients' models at the server; choose --fed.algorithm fedavg"),
        (config.finetune.epochs, f"finetune.epochs: {after}; give --finetune.epochs 0"),
        (config.distil.epochs, f"distil.epochs: {after}; give --distil.epochs 0"),
        (config.early.patience, "early.patience: the server has no examples to judge by; give --early.patience 0"),
    )  # fmt: skip
    return [line for refused, line in lines if refused]


read_source = functools.lru_cache(maxsize=1)(check.build_source)  # once for all rounds, and experiments on these data


def read_data(config: Experiment) -> Federation:
    """Returns the data of an experiment. Raises UserError on unusable data."""
    return read_source(config.data, config.seed)  # type: ignore[arg-type]  # a frozen dataclass, which can be hashed


def check_data(experiments: Collection[Experiment], sites: Sequence[Site]) -> list[str]:
    """Returns a line for each hospital whose data are not on this machine.

    Raises UserError where those that are here are not what an experiment reads, or do not fit together, and where an
    experiment cannot be computed on them, if all are here.
    """
    absent = dict[str, None]()
    for config in {(one.data, one.task, one.seed): one for one in experiments}.values():  # reading takes long
        facts = []
        for own in sites:
            one = site.with_own_data(config, own)
            paths = [pathlib.Path(getattr(one.data, name, "")).expanduser() for name in site.PATHS]
            if missing := [path for path in paths if not path.exists()]:
                absent[f"{own.name}: {missing[0]} is not on this machine"] = None
                continue
            try:
                facts.append(facts_of(own, read_data(one)))
                check_contents(one)
            except UserError as error:
                raise UserError(f"hospital.toml of {own.name}: {error}") from None
        roster = roster_of(facts) if facts else None
        if roster is None or len(facts) < sites[0].clients:
            continue
        for each in experiments:  # all is known that the server will know
            if (each.data, each.task, each.seed) == (config.data, config.task, config.seed):
                simulation(each, roster, None)
    return list(absent)


def check_contents(config: Experiment) -> None:
    """Raises UserError where the examples of a config are not what its task reads."""
    data, compute = read_data(config), compute_of(plan_of(config))
    task = assemble_task(replace(config, init_from=""), build_algorithm(config), describe(data), compute)
    check.contents(data, task.reads, type(config.data).__name__)


def facts_of(own: Site, federation: Federation) -> Facts:
    """Returns what a hospital tells the server of its data."""
    sizes, patients = federation.train.sizes, federation.train.patients
    counts = {"examples": int(sizes.sum()), "patients": None if patients is None else int(patients.sum())}
    told = {"name": own.name, "client": own.client, "synthetic": federation.synthetic, **counts}
    facts: Facts = json.loads(json.dumps({**told, **describe(federation)._asdict()}))
    return facts


def roster_of(facts: Sequence[Facts]) -> Roster:
    """Returns what all hospitals have told. Raises UserError where their data do not fit together."""
    facts = sorted(facts, key=lambda one: one["client"])
    first = facts[0]
    for one in facts:
        for name in ALIKE:
            if one[name] != first[name]:
                raise UserError(f"{name}: {first['name']} has {first[name]}, {one['name']} has {one[name]}; "
                                "prepare the images of all hospitals alike")  # fmt: skip
        if not one["examples"]:
            raise UserError(f"{one['name']}: has no example to train on; leave this hospital out, or fill its folder")
        others = {name for other in facts if other is not one for name in other["classes"]}
        if others and others.isdisjoint(one["classes"]):
            raise UserError(f"{one['name']}: has classes {', '.join(one['classes'])}, none of which another hospital "
                            f"has ({', '.join(sorted(others))}); name the classes of all alike")  # fmt: skip
    same = all(one["classes"] == first["classes"] for one in facts)
    classes = first["classes"] if same else sorted({name for one in facts for name in one["classes"]})
    counts = [sum(dict(zip(one["classes"], one["labels"])).get(name, 0) for one in facts) for name in classes]
    spacing = first["spacing"] if all(one["spacing"] == first["spacing"] for one in facts) else []
    described = {name: first[name] for name in DataDescription._fields}
    described |= {"classes": classes, "clients": len(facts), "labels": counts, "spacing": spacing}
    names, examples, patients = ([one[name] for one in facts] for name in ("name", "examples", "patients"))
    synthetic = any(one["synthetic"] for one in facts)
    return Roster(names, examples, None if None in patients else patients, described, synthetic)


def simulation(config: Experiment, roster: Roster, federation: Federation | None) -> tuple[Simulation, Plan]:
    """Returns the simulation of which a hospital with that data, or without any the server, computes its part.

    Raises UserError on bad settings, and where examples are not what the task reads.
    """
    plan = plan_of(config)
    described = runfolder.description(roster.described)
    patients = None if roster.patients is None else np.array(roster.patients, np.int32)
    data = ClientData(np.array(roster.examples, np.int32), (), _no_examples, patients=patients)
    if federation is None:
        sim = assemble(config, described, data, plan)
        check_simulation(sim, plan)
        if config.init_from and jax.tree.leaves(state_shapes(sim).clients.model):
            raise UserError("init_from: parts of the model stay with the hospitals, which do not have that file; "
                            "leave it out")  # fmt: skip
        return sim, plan
    sim = assemble(replace(config, init_from=""), described, data, plan)  # the server sends its model
    table = np.array([described.classes.index(name) for name in federation.classes], np.int32)
    train = check.contents(federation, sim.task.reads, type(config.data).__name__).train
    train = relabelled(train, table) if len(train.sizes) == 1 else pool(relabelled(train, table))
    return sim._replace(data=train._replace(store=whole(train), fetch=None, sizes=data.sizes, patients=patients)), plan


def plan_of(config: Experiment) -> Plan:
    """Returns the plan of an experiment for one client, or for the server."""
    return replace(config.plan, devices=1, lanes=1, loop="segment", data="replicated", clients="device").resolve()


def _no_examples(*_: Any) -> Any:
    raise AssertionError("the server has no examples")


def root_key(config: Experiment, secret: pathlib.Path | None) -> jax.Array:
    """Returns the key of all random numbers of a run: by 64 secret bits kept in a file, or by the config's seed."""
    if secret is None:
        return jax.random.key(config.seed)
    if not secret.exists():
        secret.parent.mkdir(parents=True, exist_ok=True)
        draft = secret.with_suffix(".part")
        draft.touch(0o600)  # nobody else may read it
        draft.write_bytes(os.urandom(8))
        draft.replace(secret)
    return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(secret.read_bytes(), np.uint32)))


def experiments(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folder of each experiment in one that `deploy` wrote, by name. Raises UserError where it has none."""
    found = {path.parent.name: path.parent for path in sorted(folder.glob("experiments/*/config.json"))}
    if not found:
        raise UserError(f"{folder}: no experiments there; give a folder that `fedjax-mri deploy` wrote")
    return found
