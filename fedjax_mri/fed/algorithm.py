"""The contract of a federated algorithm: five pure functions and a few optional ones; a file of `algorithms/` each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.uplink.uplink import Aggregate, Update
from fedjax_mri.tasks.task import Task

PyTree = Any
ClientState = PyTree


class ServerState(NamedTuple):
    """What the server keeps; what of it a client is sent says `Algorithm.broadcast`."""

    model: PyTree  # what travels of the model
    extra: PyTree  # the algorithm's own: momentum, control variate; () where there is none


class LocalResult(NamedTuple):
    """What a client has when its local steps are done."""

    model: PyTree  # what travels of the model, after training
    steps: jax.Array  # int32 [], local steps taken
    examples: jax.Array  # float32 [], examples held
    learning_rate: jax.Array  # float32 []
    late: jax.Array  # int32 [], server steps since the broadcast it started from
    times: jax.Array  # float32 [], how often its weight will count: drawn twice, or for a part of its work
    noted: PyTree  # the sum of `Algorithm.note` over local steps


def newest(server: ServerState, late: jax.Array) -> ServerState:
    """All that a server has which remembers no older models."""
    return server


def model_alone(server: ServerState, late: jax.Array) -> ServerState:
    """The newest model: the server's own part stays with it."""
    return server._replace(extra=())


def nothing_held(params: PyTree, progress: jax.Array) -> PyTree:
    """Every parameter moves in every step."""
    return jax.tree.map(lambda _: False, params)


class Algorithm(NamedTuple):
    """How clients learn and how the server puts their updates together."""

    init: Callable[[PyTree], ServerState]  # shared model ->
    init_client: Callable[[PyTree], ClientState]  # shared model -> () where there is none
    # (grads, params, start, broadcast, client state) -> grads; `start` holds the parameters the client began from
    gradient: Callable[[PyTree, PyTree, PyTree, ServerState, ClientState], PyTree]
    finish: Callable[[ServerState, ClientState, LocalResult], tuple[Update, ClientState]]  # first: the broadcast
    server: Callable[[ServerState, Aggregate], ServerState]
    task: Callable[[Task], Task] = lambda task: task  # what a client trains: personal models, heads that stay at home
    # (params, share of the local steps done, float32 []) -> bool at each leaf: it stays as it is in this step
    hold: Callable[[PyTree, jax.Array], PyTree] = nothing_held
    broadcast: Callable[[ServerState, jax.Array], ServerState] = newest  # as it was `late` int32 [] server steps ago
    oldest: int = 0  # how late a broadcast it can still give
    # (the task's grads, examples in the batch float32 [], share of the steps done) -> what to sum over local steps
    note: Callable[[PyTree, jax.Array, jax.Array], PyTree] = lambda grads, examples, progress: ()
    member: Callable[[ClientState], PyTree] | None = None  # client state -> its model: clients are an ensemble as well


def traffic(algorithm: Algorithm, model: PyTree) -> tuple[int, int]:
    """Bytes that one client is sent and sends in a round, for what travels of a model, of which shapes suffice."""

    def once(model: PyTree) -> tuple[PyTree, PyTree]:
        none, one = jnp.int32(0), jnp.float32(1)
        server = algorithm.broadcast(algorithm.init(model), none)
        noted = algorithm.note(model.params, one, one)
        result = LocalResult(model, none, one, one, none, one, noted)
        return server, algorithm.finish(server, algorithm.init_client(model), result)[0].delta

    down, up = jax.eval_shape(once, model)
    return trees.nbytes(down), trees.nbytes(up)
