"""A round whose clients are other machines: what a client computes, and what the server does.

Both are pure functions, made of those by which a simulation computes the round in one program.
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
from fedjax_mri.fed.engine.rounds import aggregate_updates, move_server, prepare_round
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation, State
from fedjax_mri.fed.sampling import cohort_of
from fedjax_mri.fed.uplink.contract import PyTree, Reduce, Sender, Update, same_accumulator


class ClientResult(NamedTuple):
    """The result of a client's round."""

    update: Update  # that it sends
    row: ClientRow  # what stays with it
    stats: RoundStats


def train_client(
    sim: Simulation,
    plan: Plan,
    state: State,
    root: jax.Array,
    placed: PlacedData,
    client: jax.Array,
    times: jax.Array,
    row: ClientRow,
) -> ClientResult:
    """Returns the result of a round for one `client` int32 [], as in a simulation with the same `root` key.

    `state` is what it was sent: the round, `Algorithm.broadcast` in place of the server, and the state of the server's
    side of the uplink. Its weight is multiplied by `times` float32 []. The plan has one device and one lane.
    """
    sim = sim._replace(algorithm=with_broadcast_received(sim.algorithm))
    sim = sim._replace(uplink=sim.uplink._replace(reduce=without_reduction(sim.uplink.reduce)))
    cohort = cohort_of(client[None], times=times[None])
    rows = jax.tree.map(lambda leaf: leaf[None], row)
    inputs, queues, _ = prepare_round(sim, plan, cohort, state, root, placed, rows)
    update, rows, stats = train_on_devices(sim, plan)(inputs, queues.start, queues.stop, placed)
    return ClientResult(update, trees.take(rows, jnp.int32(0)), stats)


def with_broadcast_received(algorithm: Algorithm) -> Algorithm:
    """Returns `algorithm` as a client runs it, whose server is what was broadcast already."""
    return algorithm._replace(
        init=lambda model: algorithm.broadcast(algorithm.init(model), jnp.int32(0)), broadcast=latest_broadcast
    )


def without_reduction(reduce: Reduce) -> Reduce:
    """Returns a reduction of one client, which accumulates its update as it is. The server finishes `reduce`."""

    def add(empty: Update, updates: Update, places: jax.Array) -> Update:
        return trees.select(places[0] >= 0, trees.take(updates, jnp.int32(0)), empty)

    return reduce._replace(zero=lambda sent, cohort_size: trees.zeros_like(sent), add=add, begin=same_accumulator)


def aggregate_round(
    sim: Simulation,
    state: State,
    root: jax.Array,
    sizes: jax.Array,
    client: jax.Array,
    updates: Update,
    arrived: jax.Array,
) -> State:
    """Returns the state after a round, by those of the updates [K, ...] that have `arrived`, bool [K].

    `sizes` int32 [N] are the examples of all clients, `client` int32 [K] the clients of the cohort. Of the state's rows
    the number of rounds alone changes: what stays with clients is with them.
    """
    places = jnp.where(arrived, jnp.arange(client.size, dtype=jnp.int32), -1)
    empty = sim.uplink.reduce.zero(jax.tree.map(lambda leaf: leaf[0], updates), client.size)
    total = sim.uplink.reduce.add(sim.uplink.reduce.begin(empty, root, state.round), updates, places)
    aggregate, uplink = aggregate_updates(sim, state, root, sizes, client, total)
    server, uplink = move_server(sim, state, aggregate, uplink, arrived.sum())
    rounds = state.clients.rounds.at[client].add(arrived.astype(jnp.int32))
    return State(state.round + 1, server, uplink, state.clients._replace(rounds=rounds))


def uplink_broadcast_mask(sim: Simulation, shapes: State) -> PyTree:
    """Returns a mask of bools in the shape of `shapes.uplink`: what the client's side of the stages reads of it.

    The rest need not be broadcast, and must not where it is the noise of earlier rounds.
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
    """Returns data of clients with `sizes` int32 [N], of which `store` holds the examples of one client alone."""
    here = np.zeros_like(sizes)
    return PlacedData(store, here - 1, here, sizes)
