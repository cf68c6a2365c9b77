"""The server's part of a run: whom it asks in a round, what it makes of the updates, and its folder.

The folder is one of a run: config, checkpoints after each round, from which it goes on after a restart, and a line for
each round in rounds.jsonl. It holds no part of a model that stays with hospitals.
"""

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk, programs, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation
from fedjax_mri.deploy import federation, wire
from fedjax_mri.deploy.client import TrainRequest
from fedjax_mri.deploy.federation import Facts, Roster
from fedjax_mri.deploy.site import RandomKey
from fedjax_mri.fed.algorithm import sent_shapes
from fedjax_mri.fed.engine import remote
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, draw_cohort, init_state, state_shapes
from fedjax_mri.fed.sampling import Cohort
from fedjax_mri.fed.uplink.contract import Update
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder
from fedjax_mri.run.checkpoint import Checkpoints, saved_rounds
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.data_digest import DataDigest

Say = Callable[[str], None]
# (request by client, the broadcast to all of them) -> the updates that arrived, by client
Exchange = Callable[[Mapping[int, TrainRequest], bytes], Mapping[int, bytes]]


class ServerRun(NamedTuple):
    """A run as the server trains it: all that does not change from round to round."""

    config: Experiment
    name: str
    token: str
    roster: Roster
    sim: Simulation
    root: jax.Array
    program: Any  # `remote.aggregate_round`, compiled when it is first called
    sent: Update  # shapes of an update
    folder: pathlib.Path


def start(
    config: Experiment, name: str, folder: pathlib.Path, random_key: RandomKey, facts: Sequence[Facts], say: Say
) -> tuple[ServerRun, State]:
    """Returns the run of an experiment in `folder`, and its first state: that of its newest checkpoint, or a fresh one.

    `facts` are what all hospitals have told. With a "secret" random key noise of the server is drawn by a key of its
    own, else as in a simulation. Raises UserError where hospitals do not fit together.
    """
    roster = federation.roster_of(facts)
    file, identity = folder / "deployment.json", {"digest": configs.digest(config), "roster": list(roster)}
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {**identity, "token": token_hex(8)}
    if known != {**identity, "token": known["token"]}:
        raise UserError(f"{folder}: holds a run of another config, or of other hospitals or data; give another folder")
    sim, plan = federation.simulation(config, roster, None)
    secret = random_key == "secret" and sim.guarantee is not None and sim.guarantee.unit == "client"
    folder.mkdir(parents=True, exist_ok=True)
    root = federation.root_key(config, folder / "key" if secret else None)
    disk.write_json(file, known)
    shapes = state_shapes(sim)
    if not jax.tree.leaves(shapes.clients.model):  # else nobody can restore a whole model here
        write_run_files(config, roster, sim, plan, folder, say)
    program = jax.jit(partial(remote.aggregate_round, sim), compiler_options=programs.xla_options())
    sent = sent_shapes(sim.algorithm, shapes.server.model)
    run = ServerRun(config, name, known["token"], roster, sim, root, program, sent, folder)
    if saved_rounds(folder):
        return run, Checkpoints(folder).restore(shapes)
    return run, jax.jit(partial(init_state, sim))(jax.random.key(config.seed))


def write_run_files(
    config: Experiment, roster: Roster, sim: Simulation, plan: Plan, folder: pathlib.Path, say: Say
) -> None:
    """Writes what makes a folder that of a run: config.json and run.json."""
    described = runfolder.description(roster.described)
    labels = np.zeros((len(roster.names), len(described.classes)), np.int32)
    data = Federation(sim.data, {}, described.classes, labels, roster.synthetic)
    seen = DataDigest(", ".join(described.classes), f"{sum(roster.examples)} examples", "", "", "")
    runfolder.write_config(folder, config, say)
    disk.write_json(folder / "run.json", runfolder.facts(config, plan, data, described, seen, sim.task.headline))


def train(run: ServerRun, state: State, exchange: Exchange, say: Say) -> State:
    """Returns the state after the last round. Each is on the disk before the next one begins.

    Raises UserError where an update is not finite, or the model is not any more.
    """
    checkpoints = Checkpoints(run.folder, run.config.keep)
    while int(state.round) < run.config.rounds:
        began, number = time.time(), int(state.round) + 1
        cohort = jax.device_get(draw_cohort(run.sim, run.root, state.round))
        requests = requests_of(run, state, cohort)
        replies = exchange(requests, broadcast(run.sim, state))
        updates = {client: update_of(run, client, replies[client]) for client in replies}
        state = jax.block_until_ready(advance(run, state, cohort, updates))
        if not bool(trees.is_finite(state.server.model)):
            raise UserError(f"round {number}: the model is not finite any more; lower local.learning_rate, or clip")
        checkpoints.save(number, jax.device_get(state))
        absent = [run.roster.names[client] for client in sorted(requests.keys() - updates.keys())]
        line = {"round": number, "updates": len(updates), "absent": absent, "seconds": round(time.time() - began, 1)}
        with (run.folder / "rounds.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        without = f", without {', '.join(absent)}" if absent else ""
        say(f"{run.name}, round {number} of {run.config.rounds}: {len(updates)} updates{without}")
    return state


def requests_of(run: ServerRun, state: State, cohort: Cohort) -> dict[int, TrainRequest]:
    """Returns what each hospital of the cohort is asked to do."""
    digest, roster, counted = configs.digest(run.config), json.dumps(run.roster), np.asarray(state.clients.rounds)
    return {
        int(client): TrainRequest(
            run.name, digest, run.token, int(state.round), int(counted[client]), float(times), roster
        )
        for client, present, times in zip(cohort.client, cohort.present, cohort.times)
        if present
    }


def broadcast(sim: Simulation, state: State) -> bytes:
    """Returns what all hospitals of a round are sent: the algorithm's broadcast, and what stages read of the uplink."""
    uplink = trees.split(remote.uplink_broadcast_mask(sim, jax.eval_shape(lambda: state)), state.uplink)[0]
    return wire.pack((sim.algorithm.broadcast(state.server, jnp.int32(0)), uplink))


def update_of(run: ServerRun, client: int, reply: bytes) -> Update:
    """Returns the update of a client. Raises UserError where it does not fit, or is not finite."""
    name = run.roster.names[client]
    update: Update = wire.unpack(reply, run.sent, name)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(update)):
        raise UserError(f"{name}: its update is not finite; look at its images, or clip updates by --uplink.clip")
    return update


def advance(run: ServerRun, state: State, cohort: Cohort, updates: Mapping[int, Update]) -> State:
    """Returns the state after a round in which these updates arrived, by client."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), run.sent)
    asked = np.where(cohort.present, cohort.client, -1).tolist()
    rows = [updates.get(client, zeros) for client in asked]
    stacked = jax.tree.map(lambda *each: np.stack(each), *rows)
    arrived = np.isin(asked, list(updates))
    return run.program(state, run.root, run.sim.data.sizes, cohort.client, stacked, arrived)
