"""A hospital's part of a run, and what it keeps of it on its own disk.

The state that stays with a client, such as SCAFFOLD's control variates or what an error feedback has not sent, is kept
by the number of its rounds that counted at the server. An update that did not arrive in time does not count: the next
round goes on from the state before it, as when a simulation loses an update. The last two states are on the disk.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk, programs, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.deploy import federation, site, wire
from fedjax_mri.deploy.federation import Facts, Roster
from fedjax_mri.deploy.site import Refusal
from fedjax_mri.fed.engine import remote
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation, State, draw_cohort, init_one_client
from fedjax_mri.fed.uplink.contract import same_bytes
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder
from fedjax_mri.run.config import Experiment


class TrainRequest(NamedTuple):
    """What the server asks of a hospital in a round, beside the broadcast; plain data."""

    experiment: str
    digest: str  # of the config
    token: str  # names the run
    round: int
    counted: int  # rounds of this hospital that have counted so far
    times: float  # factor on its weight
    roster: str  # a `Roster` as JSON


class ClientRun(NamedTuple):
    """A run as one hospital takes part in it: all that does not change from round to round."""

    sim: Simulation
    placed: PlacedData
    program: Any  # `remote.train_client`, compiled when it is first called
    root: jax.Array
    first: State  # before the first round, with the hospital's own row
    takes_part: Callable[[int], bool]  # whether the server may ask it in a round
    folder: pathlib.Path  # of what it keeps


class SavedState(NamedTuple):
    """What a hospital keeps of a round."""

    round: np.ndarray  # int32 []
    request: np.ndarray  # uint8 [32], digest of what was asked and broadcast
    row: ClientRow  # after it


def facts(folder: pathlib.Path, digests: Mapping[str, str]) -> dict[str, Facts]:
    """Returns what the hospital of a folder tells the server of its data for each experiment.

    `digests` are those of the server's configs. Raises UserError on bad data or settings.
    """
    own = site.read(folder / "hospital.toml")
    asked = {name: read_experiment(folder, name, digest) for name, digest in digests.items()}
    return {name: federation.facts_of(own, federation.read_data(config)) for name, config in asked.items()}


def read_experiment(folder: pathlib.Path, name: str, digest: str) -> Experiment:
    """Returns an experiment of a hospital's folder, with its own data.

    Raises UserError where it is not the server's, of that digest.
    """
    found = federation.experiments(folder)
    if name not in found:
        raise Refusal(f"experiment {name}: is not in {folder}, which has {', '.join(found)}")
    config = runfolder.read_config(found[name])
    if (own := configs.digest(config)) != digest:
        raise Refusal(f"experiment {name}: config {own} here, {digest} at the server; write both folders by one "
                      "`fedjax-mri deploy`")  # fmt: skip
    return site.with_own_data(config, site.read(folder / "hospital.toml"))


def train(folder: pathlib.Path, request: TrainRequest, broadcast: bytes) -> bytes:
    """Returns the update that the hospital of a folder sends in a round.

    Its new state is on the disk when this returns. Raises UserError where it refuses to train.
    """
    run = join(folder, request.experiment, request.digest, request.token, request.roster)
    own = site.read(folder / "hospital.toml")
    state = received_state(run, request.round, broadcast)
    digest = hashlib.sha256(repr((request.counted, request.times)).encode() + broadcast).digest()
    row = row_before(run, request, digest, own.lost_state)
    client, times = jnp.int32(own.client), jnp.float32(request.times)
    result = run.program(state, run.root, run.placed, client, times, jax.tree.map(jnp.asarray, row))
    save_state(run, request, digest, result.row)
    figures = run.sim.task.summary(jax.device_get(result.stats.metrics))
    words = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    print(f"{request.experiment}, round {request.round + 1}: {words}", flush=True)
    compressed = any(stage.wire is not same_bytes for stage in run.sim.uplink.stages.parts or ())
    return wire.pack(result.update, compressed)


@functools.lru_cache(maxsize=2)  # programs are compiled once for all rounds
def join(folder: pathlib.Path, experiment: str, digest: str, token: str, roster: str) -> ClientRun:
    """Returns the run `token` as the hospital takes part in it. Raises UserError where it does not."""
    if not token.isalnum():
        raise Refusal(f"run {token!r}: is no name of a run")
    own, config = site.read(folder / "hospital.toml"), read_experiment(folder, experiment, digest)
    everyone = Roster(*json.loads(roster))
    if everyone.names[own.client : own.client + 1] != [own.name] or len(everyone.names) != own.clients:
        raise Refusal(f"{own.name}: is client {own.client} of {own.clients} here, the server has {everyone.names}")
    data = federation.read_data(config)
    if (now := int(data.train.sizes.sum())) != (before := everyone.examples[own.client]):
        raise Refusal(f"{own.name}: has {now} examples now, {before} before")
    sim, plan = federation.simulation(config, everyone, data)
    kept = folder / "state" / f"{experiment}-{token}"
    refuse_another_run(sim, kept, experiment)
    root = federation.root_key(config, kept / "key" if own.random_key == "secret" else None)
    first = jax.jit(partial(init_one_client, sim.task, sim.algorithm, sim.uplink))(jax.random.key(config.seed))
    program = jax.jit(partial(remote.train_client, sim, plan), compiler_options=programs.xla_options())
    placed = jax.device_put(remote.placed_client(sim.data.store, sim.data.sizes))
    kept.mkdir(parents=True, exist_ok=True)
    return ClientRun(sim, placed, program, root, first, partial(takes_part, sim, config, own.client), kept)


def takes_part(sim: Simulation, config: Experiment, client: int, round: int) -> bool:
    """Returns whether a round is one of the run in which the accountant of privacy has counted this hospital."""
    if round >= config.rounds or sim.guarantee is None or sim.guarantee.unit == "client":
        return round < config.rounds
    cohort = draw_cohort(sim, jax.random.key(config.seed), jnp.int32(round))
    return bool(jnp.any((cohort.client == client) & cohort.present))


def refuse_another_run(sim: Simulation, kept: pathlib.Path, experiment: str) -> None:
    """Raises UserError where noise of the hospital's own is to protect it, and it has been spent in another run."""
    others = sorted(path for path in kept.parent.glob(f"{experiment}-*") if path != kept)
    if others and sim.guarantee is not None and sim.guarantee.unit != "client":
        raise Refusal(
            f"{others[0]}: a run of {experiment} has spent its budget of privacy on these data, and budgets add up; "
            "delete that folder here if the hospital agrees to another run"
        )


def received_state(run: ClientRun, round: int, broadcast: bytes) -> State:
    """Returns the state that a broadcast stands for. Raises UserError where it does not fit."""
    server = jax.eval_shape(lambda server: run.sim.algorithm.broadcast(server, jnp.int32(0)), run.first.server)
    travels, stays = trees.split(remote.uplink_broadcast_mask(run.sim, run.first), run.first.uplink)
    server, uplink = wire.unpack(broadcast, (server, travels), "the server")
    return jax.device_put(State(jnp.int32(round), server, trees.join(uplink, stays), ()))


def row_before(run: ClientRun, request: TrainRequest, digest: bytes, lost_state: str) -> ClientRow:
    """Returns the row from which the hospital trains. Raises UserError where that is not there, or was used already."""
    files, number = {int(path.stem): path for path in run.folder.glob("*.state")}, request.round + 1
    if not run.takes_part(request.round):
        raise Refusal(f"round {number}: is none in which this hospital takes part; begin a new run for more")
    if files:
        newest = load_state(files[max(files)], run.first.clients)
        if newest.round > request.round:
            raise Refusal(f"round {number}: {run.folder} has trained round {newest.round + 1}, so that the server is "
                          "behind; put back its newest folder, or begin a new run")  # fmt: skip
        if newest.round == request.round and newest.request.tobytes() != digest:
            raise Refusal(f"round {number}: was trained here from another model, and both would draw the same random "
                          "numbers; begin a new run")  # fmt: skip
    if request.counted == 0:
        return run.first.clients
    if request.counted in files:
        return load_state(files[request.counted], run.first.clients).row
    if lost_state == "fresh":
        return run.first.clients._replace(rounds=jnp.int32(request.counted))
    raise Refusal(f"{run.folder}: the state after {request.counted} rounds of this hospital is missing, there is "
                  f'{sorted(files) or "none"}; put it back, or set lost_state = "fresh" in hospital.toml')  # fmt: skip


def save_state(run: ClientRun, request: TrainRequest, digest: bytes, row: ClientRow) -> None:
    """Writes the state after a round whole or not at all, and removes those that no round can go on from."""
    state = SavedState(np.array(request.round, np.int32), np.frombuffer(digest, np.uint8), row)
    disk.write_bytes(run.folder / f"{request.counted + 1}.state", wire.pack(state))
    for path in run.folder.glob("*.state"):
        if int(path.stem) not in (request.counted, request.counted + 1):
            path.unlink()


def load_state(path: pathlib.Path, row: ClientRow) -> SavedState:
    """Returns a state that the hospital keeps, with a row like `row`. Raises UserError where its file is damaged."""
    like = SavedState(np.zeros((), np.int32), np.zeros(32, np.uint8), row)
    try:
        found: SavedState = wire.unpack(path.read_bytes(), like, str(path))
        return found
    except (UserError, OSError) as error:
        raise Refusal(f"{error}; put back a copy, or delete it") from None
