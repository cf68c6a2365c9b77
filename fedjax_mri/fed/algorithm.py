"""The contract of a federated algorithm: five pure functions. `algorithms/` has one file for each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_mri.fed.uplink import Aggregate, Update
from fedjax_mri.tasks.task import Task

PyTree = Any
ClientState = PyTree


class ServerState(NamedTuple):
    """What the server keeps, and broadcasts to the cohort."""

    model: PyTree  # what travels of the model
    extra: PyTree  # the algorithm's own: momentum, control variate; () where there is none


class LocalResult(NamedTuple):
    """What a client has when its local steps are done."""

    model: PyTree  # what travels of the model, after training
    steps: jax.Array  # int32 [], local steps taken
    examples: jax.Array  # float32 [], examples held
    learning_rate: jax.Array  # float32 []
    late: jax.Array  # int32 [], server steps since the broadcast it started from


def newest(server: ServerState, late: jax.Array) -> ServerState:
    """The broadcast of a server that remembers no older ones."""
    return server


def nothing_held(params: PyTree, progress: jax.Array) -> PyTree:
    """Every parameter moves in every step."""
    return jax.tree.map(lambda _: False, params)


class Algorithm(NamedTuple):
    """How clients learn and how the server puts their updates together."""

    init: Callable[[PyTree], ServerState]  # shared model ->
    init_client: Callable[[PyTree], ClientState]  # shared model -> () where there is none
    # (grads, params, start, server, client state) -> grads; `start` holds the parameters the client began from
    gradient: Callable[[PyTree, PyTree, PyTree, ServerState, ClientState], PyTree]
    finish: Callable[[ServerState, ClientState, LocalResult], tuple[Update, ClientState]]
    server: Callable[[ServerState, Aggregate], ServerState]
    task: Callable[[Task], Task] = lambda task: task  # what a client trains: personal models, heads that stay at home
    # (params, share of the local steps done, float32 []) -> bool at each leaf: it stays as it is in this step
    hold: Callable[[PyTree, jax.Array], PyTree] = nothing_held
    broadcast: Callable[[ServerState, jax.Array], ServerState] = newest  # as it was `late` int32 [] server steps ago
    oldest: int = 0  # how late a broadcast it can still give
