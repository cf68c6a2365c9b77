"""A hospital's part of a run, and what it keeps of it on its own disk.

The state that stays with a client, such as SCAFFOLD's control variates or what an error feedback has not sent, is kept
by the number of its rounds that counted at the server. An update that did not arrive in time does not count: the next
round goes on from the state before it, as when a simulation loses an update. The last two states are on the disk.
"""

import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk, programs, trees
from fedjax_mri.data.contract import Federation
from fedjax_mri.deploy import parts, site, wire
from fedjax_mri.deploy.parts import Roster
from fedjax_mri.deploy.site import Refusal
from fedjax_mri.deploy.wire import Leaf
from fedjax_mri.fed.engine import remote
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation, State, draw_cohort, init_one_client
from fedjax_mri.fed.uplink.contract import PyTree, same_bytes
from fedjax_mri.run.config import Experiment


class TrainRequest(NamedTuple):
    """What the server asks of a hospital in a round; plain data."""

    experiment: str
    digest: str  # of the config
    token: str  # names the run
    round: int
    counted: int  # rounds of this hospital that have counted so far
    times: float  # factor on its weight
    roster: Roster


class HospitalRun(NamedTuple):
    """A hospital's place in a run: all that does not change from round to round."""

    sim: Simulation
    placed: PlacedData
    program: Any  # `remote.client_part`, compiled when it is first called
    root: jax.Array
    first: State  # before the first round, with the hospital's own row
    takes_part: Callable[[int], bool]  # whether the server may ask it in a round
    folder: pathlib.Path  # of what it keeps


def facts(folder: pathlib.Path, experiment: str, digest: str) -> dict[str, Any]:
    """Returns what the hospital of a folder tells the server of its data. Raises UserError on bad data or settings."""
    own = site.read(folder / "hospital.toml")
    return parts.facts_of(own, federation_of(folder, experiment, digest))


@functools.lru_cache(maxsize=1)  # images are read once for all rounds
def federation_of(folder: pathlib.Path, experiment: str, digest: str) -> Federation:
    """Returns the hospital's data for an experiment. Raises UserError where its config is not the server's."""
    own = site.read(folder / "hospital.toml")
    config = parts.experiment(folder, experiment, digest)
    return parts.site_data(site.with_own_data(config, own))


def train(folder: pathlib.Path, order: TrainRequest, leaves: Mapping[str, Any]) -> dict[str, Leaf]:
    """Returns the update that the hospital of a folder sends in a round, of which `leaves` are the broadcast.

    Its new state is on the disk when this returns. Raises UserError where it refuses to train.
    """
    here = seat(folder, order.experiment, order.digest, order.token, json.dumps(order.roster))
    own = site.read(folder / "hospital.toml")
    state = received(here, order.round, leaves)
    asked = hashlib.sha256(repr((order.counted, order.times, sorted(leaves))).encode())
    for name in sorted(leaves):
        asked.update(leaves[name].data)
    row = row_before(here, order, asked.hexdigest(), own.lost_state)
    client, times = jnp.int32(own.client), jnp.float32(order.times)
    part = here.program(state, here.root, here.placed, client, times, jax.tree.map(jnp.asarray, row))
    keep(here, order, asked.hexdigest(), part.row)
    figures = here.sim.task.summary(jax.device_get(part.stats.metrics))
    print(
        f"{order.experiment}, round {order.round}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()), flush=True
    )
    encoded = any(stage.wire is not same_bytes for stage in here.sim.uplink.stages.parts or ())
    return wire.to_leaves(jax.device_get(part.sent), encoded)


@functools.lru_cache(maxsize=2)  # programs are compiled once for all rounds
def seat(folder: pathlib.Path, experiment: str, digest: str, token: str, roster: str) -> HospitalRun:
    """Returns the hospital's place in the run `token`. Raises UserError where it takes no part in it."""
    if not token.isalnum():
        raise Refusal(f"run {token!r}: is no name of a run")
    own, config = site.read(folder / "hospital.toml"), parts.experiment(folder, experiment, digest)
    everyone = Roster(*json.loads(roster))
    if everyone.names[own.client : own.client + 1] != [own.name] or len(everyone.names) != own.clients:
        raise Refusal(f"{own.name}: is client {own.client} of {own.clients} here, the server has {everyone.names}")
    federation = federation_of(folder, experiment, digest)
    if everyone.examples[own.client] != int(federation.train.sizes[0]):
        raise Refusal(
            f"{own.name}: has {federation.train.sizes[0]} examples now, {everyone.examples[own.client]} before"
        )
    sim, plan = parts.simulation(parts.without_files(config), everyone, federation)
    kept = folder / "state" / f"{experiment}-{token}"
    refuse_another_run(sim, kept, experiment)
    root = parts.root_key(config, kept / "key" if own.seed == "secret" else None)
    start = jax.random.key(config.seed)  # every client starts from the same model
    first = jax.jit(partial(init_one_client, sim.task, sim.algorithm, sim.uplink))(start)
    program = jax.jit(partial(remote.client_part, sim, plan), compiler_options=programs.xla_options())
    placed = jax.device_put(remote.placed_client(sim.data.store, sim.data.sizes))
    kept.mkdir(parents=True, exist_ok=True)
    return HospitalRun(sim, placed, program, root, first, partial(takes_part, sim, config, own.client), kept)


def takes_part(sim: Simulation, config: Experiment, client: int, round: int) -> bool:
    """Returns whether the budget of privacy of a hospital's patients has counted a round, and whether it is one."""
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


def received(here: HospitalRun, round: int, leaves: Mapping[str, Any]) -> State:
    """Returns the state that a broadcast stands for. Raises UserError where it does not fit."""
    first = here.first
    server = jax.eval_shape(lambda server: here.sim.algorithm.broadcast(server, jnp.int32(0)), first.server)
    travels, stays = trees.split(remote.read_by_clients(here.sim, first), first.uplink)
    server, uplink = wire.from_leaves(leaves, (server, travels), "the server")
    return jax.device_put(State(jnp.int32(round), server, trees.join(uplink, stays), ()))


def row_before(here: HospitalRun, order: TrainRequest, asked: str, lost_state: str) -> ClientRow:
    """Returns the row from which the hospital trains. Raises UserError where that is not there, or was used already."""
    files = {int(path.stem): path for path in here.folder.glob("*.npz")}
    if not here.takes_part(order.round):
        raise Refusal(f"round {order.round}: is none in which this hospital takes part; begin a new run for more")
    newest = read_kept(files[max(files)], here.first.clients)[:2] if files else (-1, "")
    if newest[0] > order.round:
        raise Refusal(
            f"round {order.round}: {here.folder} has trained round {newest[0]}, so that the server is behind; put back "
            "its newest folder, or begin a new run"
        )
    if newest[0] == order.round and newest[1] != asked:
        raise Refusal(
            f"round {order.round}: was trained here from another model, and both would draw the same random numbers; "
            "begin a new run"
        )
    if order.counted == 0:
        return here.first.clients
    if order.counted in files:
        return read_kept(files[order.counted], here.first.clients)[2]
    if lost_state == "fresh":
        return here.first.clients._replace(rounds=jnp.int32(order.counted))
    raise Refusal(
        f"{here.folder}: the state after {order.counted} rounds of this hospital is missing, there is "
        f'{sorted(files) or "none"}; put it back, or set lost_state = "fresh" in hospital.toml'
    )


def keep(here: HospitalRun, order: TrainRequest, asked: str, row: ClientRow) -> None:
    """Writes the state after a round whole or not at all, and removes those that no round can go on from."""
    leaves = wire.to_leaves(jax.device_get(row))
    arrays = {f"{leaf.dtype}|{name}": np.frombuffer(leaf.data, np.uint8) for name, leaf in leaves.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, round=order.round, asked=asked, **arrays)
    disk.write_bytes(here.folder / f"{order.counted + 1}.npz", buffer.getvalue())
    for path in here.folder.glob("*.npz"):
        if int(path.stem) not in (order.counted, order.counted + 1):
            path.unlink()


def read_kept(path: pathlib.Path, like: PyTree) -> tuple[int, str, ClientRow]:
    """Returns the round of a kept state, a digest of what was asked then, and the row. Raises UserError if damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        leaves = {}
        for key in values.keys() - {"round", "asked"}:
            dtype, _, name = key.partition("|")
            leaves[name] = Leaf(dtype, (), wire.PLAIN, values[key].tobytes())
        return int(values["round"]), str(values["asked"]), wire.from_leaves(leaves, like, str(path))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise Refusal(f"{path}: is damaged ({type(error).__name__}); put back a copy, or delete it") from None
