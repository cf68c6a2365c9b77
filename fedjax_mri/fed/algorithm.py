"""The contract of a federated algorithm: a few pure functions; a file of `algorithms/` each."""

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
    """What the server keeps; `Algorithm.broadcast` says what of it a client is sent."""

    model: PyTree  # what travels of the model
    extra: PyTree  # the algorithm's own: momentum, control variate; () where there is none


class LocalResult(NamedTuple):
    """What a client has when its local steps are done."""

    model: PyTree  # what travels of the model, after training
    steps: jax.Array  # int32 [], local steps taken
    examples: jax.Array  # float32 [], examples held
    learning_rate: jax.Array  # float32 []
    staleness: jax.Array  # int32 [], server steps since the broadcast it started from
    times: jax.Array  # float32 [], how often its weight will count: drawn twice, or for a part of its work
    accumulated: PyTree  # the sum of `Algorithm.accumulate` over local steps


def latest_broadcast(server: ServerState, staleness: jax.Array) -> ServerState:
    """All that the server has; for algorithms that remember no older models."""
    return server


def latest_model(server: ServerState, staleness: jax.Array) -> ServerState:
    """The newest model alone: the server's own part stays with it."""
    return server._replace(extra=())


def nothing_frozen(params: PyTree, progress: jax.Array) -> PyTree:
    """The mask by which every parameter moves in every step."""
    return jax.tree.map(lambda _: False, params)


def accumulate_nothing(grads: PyTree, examples: jax.Array, progress: jax.Array) -> PyTree:
    """What algorithms sum over local steps that need no such sum."""
    return ()


def same_state(server: ServerState, client: ClientState, result: LocalResult, sent: Update) -> ClientState:
    """The client's state as it was."""
    return client


class Algorithm(NamedTuple):
    """How clients learn and how the server puts their updates together."""

    init: Callable[[PyTree], ServerState]  # shared model -> the server's first state
    init_client: Callable[[PyTree], ClientState]  # shared model -> () where clients remember nothing
    # (grads, params, start, broadcast, client state) -> grads; `start` holds the parameters the client began from
    gradient: Callable[[PyTree, PyTree, PyTree, ServerState, ClientState], PyTree]
    finish: Callable[[ServerState, ClientState, LocalResult], Update]  # first: the broadcast
    server: Callable[[ServerState, Aggregate], ServerState]
    # (broadcast, client state, result, what the client's side of the uplink made of its update) -> client state.
    # A state that must agree with the server's sum of updates is made of what was sent, not of what was meant.
    remember: Callable[[ServerState, ClientState, LocalResult, Update], ClientState] = same_state
    task: Callable[[Task], Task] = lambda task: task  # what a client trains: personal models, heads that stay at home
    # (params, share of the local steps done, float32 []) -> bool at each leaf: it stays as it is in this step
    frozen: Callable[[PyTree, jax.Array], PyTree] = nothing_frozen
    broadcast: Callable[[ServerState, jax.Array], ServerState] = latest_broadcast  # as it was so many steps ago
    max_staleness: int = 0  # the oldest broadcast that it can still give, in server steps
    # (the task's grads, examples in the batch float32 [], share of the steps done) -> what to sum over local steps
    accumulate: Callable[[PyTree, jax.Array, jax.Array], PyTree] = accumulate_nothing
    member: Callable[[ClientState], PyTree] | None = None  # client state -> its model: clients are an ensemble as well


def sent_shapes(algorithm: Algorithm, model: PyTree) -> Update:
    """The shapes of the update that `algorithm` sends for a model of which `model`, or its shapes, travels."""

    def once(model: PyTree) -> Update:
        none, one = jnp.int32(0), jnp.float32(1)
        server = algorithm.broadcast(algorithm.init(model), none)
        accumulated = algorithm.accumulate(model.params, one, one)
        result = LocalResult(model, none, one, one, none, one, accumulated)
        return algorithm.finish(server, algorithm.init_client(model), result)

    return jax.eval_shape(once, model)


def traffic(algorithm: Algorithm, uplink: Uplink, model: PyTree) -> Traffic:
    """Bytes that one client is sent and sends in a round, for what travels of a model, of which shapes suffice."""
    down = jax.eval_shape(lambda model: algorithm.broadcast(algorithm.init(model), jnp.int32(0)), model)
    return Traffic(trees.nbytes(down), wire_bytes(uplink, sent_shapes(algorithm, model)))
