"""The contract of a federated algorithm: a few pure functions. `algorithms/` has one file for each.

Algorithms decide about parameters. Statistics, the `carry` of a model, change without a gradient: running means and
variances must never move by a server's rate, momentum or optimiser, beyond what any client has sent. `client_update`
and `server_update` therefore take them to the mean of the clients' statistics, whatever an algorithm does to the rest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.uplink.contract import Aggregate, Update, Uplink, wire_bytes
from fedjax_mri.tasks.task import Task

PyTree = Any
ClientState = PyTree


class ServerState(NamedTuple):
    """What the server keeps between rounds. `Algorithm.broadcast` makes of it what a client is sent."""

    model: PyTree  # the shared part of the model
    extra: PyTree  # state of the algorithm, such as momentum or a control variate; () if it has none


class LocalResult(NamedTuple):
    """The result of a client's local training."""

    model: PyTree  # the shared part of the model, after training
    steps: jax.Array  # int32 [], local steps taken
    examples: jax.Array  # float32 [], examples held
    learning_rate: jax.Array  # float32 []
    staleness: jax.Array  # int32 [], server steps since the broadcast it started from
    times: jax.Array  # float32 [], factor on its weight: 2 if it was drawn twice, below 1 for unfinished work
    accumulated: PyTree  # the sum of `Algorithm.accumulate` over local steps


def latest_broadcast(server: ServerState, staleness: jax.Array) -> ServerState:
    """Returns all that the server has: the broadcast of algorithms that keep no older models."""
    return server


def latest_model(server: ServerState, staleness: jax.Array) -> ServerState:
    """Returns the newest model alone; the algorithm's own state stays with the server."""
    return server._replace(extra=())


def nothing_frozen(params: PyTree, progress: jax.Array) -> PyTree:
    """Returns a mask of False: every parameter moves in every step."""
    return jax.tree.map(lambda _: False, params)


def accumulate_nothing(grads: PyTree, examples: jax.Array, progress: jax.Array) -> PyTree:
    """Returns (): the algorithm needs no sum over local steps."""
    return ()


def same_state(server: ServerState, client: ClientState, result: LocalResult, sent: Update) -> ClientState:
    """Returns the client's state unchanged."""
    return client


def mean_statistics(server: ServerState, aggregate: Aggregate) -> PyTree:
    """Returns the mean of the statistics that the cohort has sent."""
    return trees.add(server.model.carry, aggregate.delta.carry)


class Algorithm(NamedTuple):
    """A federated algorithm: how clients learn, and how the server uses their updates.

    `finish` and `server` may treat all leaves of the model alike: what they do to statistics is not used.
    """

    init: Callable[[PyTree], ServerState]  # shared model -> the server's first state
    init_client: Callable[[PyTree], ClientState]  # shared model -> a client's first state; () if it has none
    # (grads, params, start, broadcast, client state) -> grads; `start` holds the parameters the client began from
    gradient: Callable[[PyTree, PyTree, PyTree, ServerState, ClientState], PyTree]
    finish: Callable[[ServerState, ClientState, LocalResult], Update]  # (broadcast, client state, result) -> update
    server: Callable[[ServerState, Aggregate], ServerState]
    # (broadcast, client state, result, update after the client's side of the uplink) -> client state.
    # A state that must agree with the server's sum of updates must use what was sent, clipped or compressed.
    update_client_state: Callable[[ServerState, ClientState, LocalResult, Update], ClientState] = same_state
    task: Callable[[Task], Task] = lambda task: (
        task
    )  # what a client trains, such as a personal model beside the shared one
    # (params, share of the local steps done, float32 []) -> bool at each leaf: whether it is frozen in this step
    frozen: Callable[[PyTree, jax.Array], PyTree] = nothing_frozen
    frozen_share: jax.Array | float = 0.0  # share of the local steps, the first ones, in which nothing shared moves
    broadcast: Callable[[ServerState, jax.Array], ServerState] = latest_broadcast  # (server, staleness) -> broadcast
    max_staleness: int = 0  # age of the oldest broadcast that it keeps, in server steps
    # (the task's grads, examples in the batch float32 [], share of the steps done) -> what to sum over local steps
    accumulate: Callable[[PyTree, jax.Array, jax.Array], PyTree] = accumulate_nothing
    member: Callable[[ClientState], PyTree] | None = None  # client state -> its model, if clients form an ensemble
    # (server before the round, aggregate) -> the server's statistics after it
    statistics: Callable[[ServerState, Aggregate], PyTree] = mean_statistics
    wire: Callable[[ServerState], int] = trees.nbytes  # shapes of a broadcast -> its bytes


def client_update(
    algorithm: Algorithm, server: ServerState, broadcast: ServerState, client: ClientState, result: LocalResult
) -> Update:
    """Returns the update of a client that began from `broadcast`, while `server` is the server's state now.

    The change of its statistics is that from the server's present ones, so that the mean of changes leads to the mean
    of the clients' statistics although some began from an older broadcast.
    """
    update = algorithm.finish(broadcast, client, result)
    change = trees.subtract(result.model.carry, server.model.carry)
    return update._replace(delta=update.delta._replace(carry=change))


def server_update(algorithm: Algorithm, server: ServerState, aggregate: Aggregate) -> ServerState:
    """Returns the server's state after a round: parameters by `algorithm.server`, statistics by `statistics`.

    `algorithm.server` finds the new statistics in the server's model and no change of them in the aggregate. All that
    it remembers of the model therefore holds the right ones.
    """
    statistics = algorithm.statistics(server, aggregate)
    no_change = aggregate.delta._replace(carry=trees.zeros_like(statistics))
    server = server._replace(model=server.model._replace(carry=statistics))
    moved = algorithm.server(server, aggregate._replace(delta=no_change))
    return moved._replace(model=moved.model._replace(carry=statistics))


def sent_shapes(algorithm: Algorithm, model: PyTree) -> Update:
    """Returns the shapes of the update that a client sends. `model` is the shared part of a model, or its shapes."""

    def send(model: PyTree) -> Update:
        zero, one = jnp.int32(0), jnp.float32(1)
        server = algorithm.broadcast(algorithm.init(model), zero)
        accumulated = algorithm.accumulate(model.params, one, one)
        result = LocalResult(model, zero, one, one, zero, one, accumulated)
        return client_update(algorithm, server, server, algorithm.init_client(model), result)

    return jax.eval_shape(send, model)


def traffic(algorithm: Algorithm, uplink: Uplink, model: PyTree) -> Traffic:
    """Returns the bytes that one client receives and sends in a round.

    `model` is the shared part of a model, or its shapes.
    """
    down = jax.eval_shape(lambda model: algorithm.broadcast(algorithm.init(model), jnp.int32(0)), model)
    return Traffic(algorithm.wire(down), wire_bytes(uplink, sent_shapes(algorithm, model)))
