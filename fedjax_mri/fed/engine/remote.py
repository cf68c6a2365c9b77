"""A round whose clients are other machines: the part of one client, and that of the server.

Both are pure functions of what the simulation computes in one program, made of the same functions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from fedjax_mri.core import trees
from fedjax_mri.fed.algorithm import Algorithm, latest_broadcast, sent_shapes
from fedjax_mri.fed.engine.lanes import RoundStats, train_on_devices
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.rounds import move_server, prepare_round
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation, State
from fedjax_mri.fed.sampling import cohort_of
from fedjax_mri.fed.uplink.contract import PyTree, Reduce, Sender, Update


class ClientPart(NamedTuple):
    """What a client makes of a round."""

    sent: Update
    row: ClientRow  # what stays with it
    stats: RoundStats


def client_part(
    sim: Simulation,
    plan: Plan,
    state: State,
    root: jax.Array,
    placed: PlacedData,
    client: jax.Array,
    times: jax.Array,
    row: ClientRow,
) -> ClientPart:
    """Returns what one `client` int32 [] makes of a round, as in a simulation with the same `root` key.

    `state` is what it was sent: the round, `Algorithm.broadcast` in place of the server, and the state of the server's
    side of the uplink. Its weight counts `times` float32 []. The plan has one device and one lane.
    """
    sim = sim._replace(algorithm=as_broadcast(sim.algorithm), uplink=sim.uplink._replace(reduce=as_sent()))
    cohort = cohort_of(client[None], times=times[None])
    rows = jax.tree.map(lambda leaf: leaf[None], row)
    inputs, queues, _ = prepare_round(sim, plan, cohort, state, root, placed, rows)
    sent, rows, stats = train_on_devices(sim, plan)(inputs, queues.start, queues.stop, placed)
    return ClientPart(sent, trees.take(rows, jnp.int32(0)), stats)


def as_broadcast(algorithm: Algorithm) -> Algorithm:
    """Returns `algorithm` as a client runs it, whose server is what was broadcast already."""
    return algorithm._replace(
        init=lambda model: algorithm.broadcast(algorithm.init(model), jnp.int32(0)), broadcast=latest_broadcast
    )


def as_sent() -> Reduce:
    """Returns the reduction of a single client, whose accumulator is its update."""

    def add(total: Update, updates: Update, places: jax.Array) -> Update:
        return jax.tree.map(lambda none, each: jnp.where(places[0] >= 0, each[0], none), total, updates)

    return Reduce("as sent", lambda sent, places: trees.zeros_like(sent), add, finish=lambda *_: _finishes_nowhere())


def _finishes_nowhere() -> tuple[PyTree, PyTree]:
    raise NotImplementedError("a client's update is reduced by the server")


def server_part(
    sim: Simulation,
    state: State,
    root: jax.Array,
    sizes: jax.Array,
    client: jax.Array,
    updates: Update,
    came: jax.Array,
) -> State:
    """Returns the state after a round in which the updates [K, ...] of the places that `came` bool [K] arrived.

    `sizes` int32 [N] are the examples of all clients, `client` int32 [K] the clients of the cohort. Of the state's rows
    the number of rounds alone changes: what stays with clients is with them.
    """
    places = jnp.where(came, jnp.arange(client.size, dtype=jnp.int32), -1)
    empty = sim.uplink.reduce.zero(jax.tree.map(lambda leaf: leaf[0], updates), client.size)
    total = sim.uplink.reduce.add(sim.uplink.reduce.begin(empty, root, state.round), updates, places)
    server, uplink, _ = move_server(sim, state, root, sizes, client, total, came.sum())
    rounds = state.clients.rounds.at[client].add(came.astype(jnp.int32))
    return State(state.round + 1, server, uplink, state.clients._replace(rounds=rounds))


def read_by_clients(sim: Simulation, shapes: State) -> PyTree:
    """Returns a mask of bools in the shape of `shapes.uplink`: what the client's side of the stages reads of it.

    The rest need not travel, and must not where it is the noise of earlier rounds.
    """
    sent = sent_shapes(sim.algorithm, shapes.server.model)
    state = jax.eval_shape(lambda: sim.uplink.stages.init_client(sent))

    def client(uplink: PyTree, update: Update, state: PyTree) -> PyTree:
        one, zero = jnp.float32(1), jnp.int32(0)
        return sim.uplink.stages.client(update, state, Sender(zero, zero, jax.random.key(0), one, one, uplink))

    traced = jax.make_jaxpr(client)(shapes.uplink, sent, state).jaxpr
    used = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))[1]
    leaves, structure = jax.tree.flatten(shapes.uplink)
    return jax.tree.unflatten(structure, used[: len(leaves)])


def placed_client(store: PyTree, sizes: np.ndarray) -> PlacedData:
    """Returns the examples of one client as data of all clients with `sizes` int32 [N]: `store` has them alone."""
    here = np.zeros_like(sizes)
    return PlacedData(store, here - 1, here, sizes)
