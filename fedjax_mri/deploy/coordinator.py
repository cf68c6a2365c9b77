"""The server's part of a run: whom it asks in a round, what it makes of the updates, and its folder.

The folder is one of a run: config, checkpoints after each round, from which it goes on after a restart, and a line for
each round in rounds.jsonl. It holds no part of a model that stays with hospitals.
"""

import json
import pathlib
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk, programs, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation
from fedjax_mri.deploy import parts, wire
from fedjax_mri.deploy.hospital import TrainRequest
from fedjax_mri.fed.algorithm import sent_shapes
from fedjax_mri.fed.engine import remote
from fedjax_mri.fed.engine.simulation import Simulation, State, draw_cohort, init_state, state_shapes
from fedjax_mri.fed.sampling import Cohort
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder
from fedjax_mri.run.checkpoint import Checkpoints, saved_rounds
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.data_digest import DataDigest

Say = Callable[[str], None]
Gather = Callable[[], list[dict[str, Any]]]  # what each hospital tells of its data
# orders and leaves by client -> the leaves that came, by client
Ask = Callable[[Mapping[int, TrainRequest], Mapping[str, Any]], dict[int, Mapping[str, Any]]]


class Run(NamedTuple):
    """A run of the server: all that does not change from round to round."""

    config: Experiment
    name: str
    token: str
    roster: parts.Roster
    sim: Simulation
    root: jax.Array
    program: Any  # `remote.server_part`, compiled when it is first called
    folder: pathlib.Path


def start(
    config: Experiment, name: str, folder: pathlib.Path, seed: str, gather: Gather, say: Say
) -> tuple[Run, State]:
    """Returns the run of an experiment in `folder`, and its first state: that of its newest checkpoint, or a fresh one.

    `seed` is "secret", noise of the server is drawn by a key of its own, or "config", as in a simulation. Raises
    UserError where hospitals do not fit together.
    """
    file, digest = folder / "deployment.json", configs.digest(config)
    told = gather()
    known = (
        json.loads(file.read_text(encoding="utf-8"))
        if file.exists()
        else {"token": secrets.token_hex(8), "digest": digest}
    )
    roster = parts.roster_of(told)
    known.setdefault("roster", json.loads(json.dumps(roster)))
    if known["digest"] != digest or known["roster"] != json.loads(json.dumps(roster)):
        raise UserError(f"{folder}: holds a run of another config, or of other hospitals or data; give another folder")
    sim, plan = parts.simulation(config, roster, None)
    secret = seed == "secret" and sim.guarantee is not None and sim.guarantee.unit == "client"
    folder.mkdir(parents=True, exist_ok=True)
    root = parts.root_key(config, folder / "key" if secret else None)
    disk.write_json(file, known)
    described = runfolder.description(roster.described)
    labels = np.zeros((len(roster.names), len(described.classes)), np.int32)
    federation = Federation(sim.data, {}, described.classes, labels, roster.synthetic)
    if not jax.tree.leaves(state_shapes(sim).clients.model):  # else nobody can restore a whole model here
        seen = DataDigest(", ".join(described.classes), f"{sum(roster.examples)} examples", "", "", "")
        runfolder.write_config(folder, config, say)
        facts = runfolder.facts(config, plan, federation, described, seen, sim.task.headline)
        disk.write_json(folder / "run.json", facts)
    program = jax.jit(partial(remote.server_part, sim), compiler_options=programs.xla_options())
    run = Run(config, name, known["token"], roster, sim, root, program, folder)
    if saved_rounds(folder):
        return run, Checkpoints(folder).restore(state_shapes(sim))
    return run, jax.jit(partial(init_state, sim))(jax.random.key(config.seed))


def train(run: Run, state: State, ask: Ask, say: Say) -> State:
    """Returns the state after the last round. Each is on the disk before the next one begins.

    Raises UserError where an update is not finite, or the model is not any more.
    """
    checkpoints = Checkpoints(run.folder, run.config.keep)
    shapes = sent_shapes(run.sim.algorithm, jax.eval_shape(lambda: state.server.model))
    while int(state.round) < run.config.rounds:
        began, number = time.time(), int(state.round)
        cohort = jax.device_get(draw_cohort(run.sim, run.root, state.round))
        orders = orders_of(run, state, cohort)
        leaves = ask(orders, broadcast(run.sim, state))
        updates = {client: update_of(run, shapes, client, leaves[client]) for client in leaves}
        state = jax.block_until_ready(advance(run, state, cohort, updates, shapes))
        if not bool(trees.is_finite(state.server.model)):
            raise UserError(f"round {number + 1}: the model is not finite any more; lower local.learning_rate, or clip")
        checkpoints.save(number + 1, jax.device_get(state))
        absent = [run.roster.names[client] for client in sorted(orders.keys() - updates.keys())]
        line = {"round": number + 1, "came": len(updates), "absent": absent, "seconds": round(time.time() - began, 1)}
        with (run.folder / "rounds.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        say(
            f"{run.name}, round {number + 1}: {len(updates)} came"
            + (f", without {', '.join(absent)}" if absent else "")
        )
    return state


def orders_of(run: Run, state: State, cohort: Cohort) -> dict[int, TrainRequest]:
    """Returns what each hospital of the cohort is asked to do."""
    digest, counted = configs.digest(run.config), np.asarray(state.clients.rounds)
    return {
        int(client): TrainRequest(
            run.name, digest, run.token, int(state.round), int(counted[client]), float(times), run.roster
        )
        for client, present, times in zip(cohort.client, cohort.present, cohort.times)
        if present
    }


def broadcast(sim: Simulation, state: State) -> dict[str, wire.Leaf]:
    """Returns what all hospitals of a round are sent: the algorithm's broadcast, and what stages read of the uplink."""
    uplink = trees.split(remote.read_by_clients(sim, jax.eval_shape(lambda: state)), state.uplink)[0]
    return wire.to_leaves((sim.algorithm.broadcast(state.server, jnp.int32(0)), uplink))


def update_of(run: Run, shapes: Any, client: int, leaves: Mapping[str, Any]) -> Any:
    """Returns the update of a client. Raises UserError where it does not fit, or is not finite."""
    name = run.roster.names[client]
    update = wire.from_leaves(leaves, shapes, name)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(update)):
        raise UserError(f"{name}: its update is not finite; look at its images, or clip updates by --uplink.clip")
    return update


def advance(run: Run, state: State, cohort: Cohort, updates: dict[int, Any], shapes: Any) -> State:
    """Returns the state after a round in which these updates came, by client."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    came = np.array([bool(here) and int(client) in updates for client, here in zip(cohort.client, cohort.present)])
    rows = [updates[int(client)] if here else zeros for client, here in zip(cohort.client, came)]
    stacked = jax.tree.map(lambda *each: np.stack(each), *rows)
    return run.program(state, run.root, run.sim.data.sizes, cohort.client, stacked, came)
