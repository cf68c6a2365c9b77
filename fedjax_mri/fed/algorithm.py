"""The contract of a federated algorithm: five pure functions. `algorithms/` has one file for each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_mri.fed.uplink import Aggregate, Update

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


class Algorithm(NamedTuple):
    """How clients learn and how the server puts their updates together."""

    init: Callable[[PyTree], ServerState]  # shared model ->
    init_client: Callable[[PyTree], ClientState]  # shared model -> () where there is none
    # (grads, params, start, server, client state) -> grads; `start` holds the parameters the client began from
    gradient: Callable[[PyTree, PyTree, PyTree, ServerState, ClientState], PyTree]
    finish: Callable[[ServerState, ClientState, LocalResult], tuple[Update, ClientState]]
    server: Callable[[ServerState, Aggregate], ServerState]
