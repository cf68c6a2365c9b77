"""The contract of the uplink: what passes a stage, what a reduction is given, and what each may know.

A client's update is weighted first, then passes the stages in order, and is reduced with the rest of the cohort. The
result passes the server's side of the stages in the same order before the algorithm uses it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax

from fedjax_mri.core import trees

if TYPE_CHECKING:
    from fedjax_mri.fed.algorithm import Algorithm
    from fedjax_mri.fed.client.local import Local
    from fedjax_mri.fed.sampling import Sampler
    from fedjax_mri.tasks.task import Task

PyTree = Any
State = PyTree
Notes = dict[str, jax.Array]  # name -> float32 []; summed over the clients of a round and logged


class Update(NamedTuple):
    """What one client sends."""

    delta: PyTree  # change of what travels of the model: what is clipped, attacked, compressed and noised
    aside: PyTree  # what an algorithm sends beside it: control variates, step counts; () where there is nothing
    weight: jax.Array  # float32 [], its share in the mean; `Algorithm.finish` puts the number of examples here


class Aggregate(NamedTuple):
    """What the server makes of a cohort's updates."""

    delta: PyTree  # in the mean, zeros when no client sent anything
    aside: PyTree
    weight: jax.Array  # float32 [], sum of weights
    clients: jax.Array  # float32 [], how many sent something
    share: jax.Array  # float32 [], the sum of weights as a share of what all clients together would send


class Sender(NamedTuple):
    """Whose update a stage sees."""

    client: jax.Array  # int32 []
    round: jax.Array  # int32 []
    key: jax.Array  # of this client, this round and this stage alone
    examples: jax.Array  # float32 [], examples that the client holds
    times: jax.Array  # float32 [], how often its weight counts: drawn twice, or for a part of its work


class ServerRound(NamedTuple):
    """What the server's side of a stage or a reduction may know of the round."""

    round: jax.Array  # int32 []
    key: jax.Array  # of this round and this stage alone
    total_weight: jax.Array  # float32 [], the sum of weights that all clients of the federation would send
    expected_weight: jax.Array  # float32 [], the part of it that a cohort sends in the mean over cohorts


class Facts(NamedTuple):
    """What a part of the uplink may ask about the simulation before it takes part in it."""

    algorithm: "Algorithm"
    task: "Task"
    sampler: "Sampler"
    local: "Local"
    sent: Update  # shapes of what `Algorithm.finish` makes
    uplink: "Uplink"


def no_state(sent: Update) -> State:
    """The state of a part that remembers nothing."""
    return ()


def pass_update(update: Update, state: State, sender: Sender) -> tuple[Update, State, Notes]:
    """The client's side of a stage that does nothing there."""
    return update, state, {}


def pass_aggregate(aggregate: Aggregate, state: State, at: ServerRound) -> tuple[Aggregate, State]:
    """The server's side of a stage that does nothing there."""
    return aggregate, state


def unbounded(bound: float) -> float:
    """The sensitivity of a stage about which nothing is known."""
    return float("inf")


def same_bytes(sent: Update, nbytes: int) -> int:
    """The bytes on the wire after a stage that leaves the encoding as it was."""
    return nbytes


def admits_all(facts: Facts) -> None:
    """Takes part in every simulation."""


class Stage(NamedTuple):
    """One thing that is done to updates. What a stage leaves out passes what it is given."""

    name: str  # in messages and in the log, where notes stand as uplink/<name>/<note>
    init: Callable[[Update], State] = no_state  # shapes of what clients send -> the server's state
    init_client: Callable[[Update], State] = no_state  # the same -> one client's state; absent clients keep theirs
    client: Callable[[Update, State, Sender], tuple[Update, State, Notes]] = pass_update
    server: Callable[[Aggregate, State, ServerRound], tuple[Aggregate, State]] = pass_aggregate
    sensitivity: Callable[[float], float] = unbounded  # bound on the norm of a client's delta: before -> after
    linear: bool = False  # commutes with sums over clients: may stand before secure aggregation
    wire: Callable[[Update, int], int] = same_bytes  # (shapes, bytes before the stage) -> bytes that a client sends
    admits: Callable[[Facts], None] = admits_all  # raises UserError, with the remedy, where it cannot take part


def sum_over_devices(accumulated: PyTree, axis: str) -> PyTree:
    """The sum over the mesh axis: how running sums, and rows that one device each has filled, are merged."""
    return jax.lax.psum(accumulated, axis)


class Reduce(NamedTuple):
    """How a cohort's updates become one: gathered on each device, merged over devices, finished on the server.

    An update is added with its place in the cohort, int32 from 0 to K - 1, or -1 for a lane that hands in none.
    """

    name: str
    zero: Callable[[Update, int], PyTree]  # (shapes, K places) -> empty accumulator
    add: Callable[[PyTree, Update, jax.Array], PyTree]  # (accumulator, updates [L, ...], places int32 [L]) -> it
    finish: Callable[[PyTree, State, ServerRound], tuple[Aggregate, State]]
    init: Callable[[Update], State] = no_state  # shapes of what clients send -> what the server remembers
    merge: Callable[[PyTree, str], PyTree] = sum_over_devices  # (accumulator of one device, mesh axis) -> of all
    linear: bool = False  # needs the sum of updates alone, so that secure aggregation can stand before it
    admits: Callable[[Facts], None] = admits_all


class Uplink(NamedTuple):
    """The whole way from clients to the server. Weighting comes first, so that no stage's bound is undone by it."""

    weigh: Callable[[jax.Array], jax.Array]  # examples, float32 [...] -> weights, float32 [...]
    stages: Stage  # all of them, as `chain` makes one of several
    reduce: Reduce
    empty_round: Literal["skip", "release"] = "skip"  # whether the server moves when no client has sent anything


class UplinkState(NamedTuple):
    """What the server's side of the uplink remembers between rounds."""

    stages: State
    reduce: State


def init(uplink: Uplink, sent: Update) -> UplinkState:
    """The server's state before the first round, from the shapes of what clients send."""
    return UplinkState(uplink.stages.init(sent), uplink.reduce.init(sent))


def wire_bytes(uplink: Uplink, sent: Update) -> int:
    """Bytes that one client sends in a round, from the shapes of its update."""
    return uplink.stages.wire(sent, trees.nbytes((sent.delta, sent.aside)))


def check(facts: Facts) -> None:
    """Raises UserError where a stage or the reduction cannot take part in this simulation."""
    facts.uplink.stages.admits(facts)
    facts.uplink.reduce.admits(facts)
