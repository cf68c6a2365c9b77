"""The contract of the uplink: what a stage and a reduction are, and what they are given.

A client's update is weighted first, then passes the stages in order, and is reduced with those of the rest of the
cohort. The aggregate passes the server's side of the stages in the same order before the algorithm uses it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError

if TYPE_CHECKING:
    from fedjax_mri.fed.algorithm import Algorithm
    from fedjax_mri.fed.client.local import Local
    from fedjax_mri.fed.sampling import Sampler
    from fedjax_mri.fed.uplink.reductions.matrix import Rule
    from fedjax_mri.fed.uplink.vectors import Vectors
    from fedjax_mri.tasks.task import Task

PyTree = Any
State = PyTree
Notes = dict[str, jax.Array]  # name -> float32 []; summed over the clients of a round and logged


class Update(NamedTuple):
    """The update that one client sends to the server."""

    delta: PyTree  # change of the shared part of the model; stages work on it
    auxiliary: PyTree  # what the algorithm sends besides, such as control variates or step counts; () if nothing
    weight: jax.Array  # float32 [], its share in the mean; `Algorithm.finish` puts the number of examples here


class Aggregate(NamedTuple):
    """What the server makes of a cohort's updates."""

    delta: PyTree  # change of the shared part of the model; zeros if no client sent anything
    auxiliary: PyTree  # the weighted mean of what clients sent besides
    weight: jax.Array  # float32 [], sum of weights
    clients: jax.Array  # float32 [], number of clients that sent an update
    share: jax.Array  # float32 [], the sum of weights divided by that of all clients of the federation
    rows: PyTree = ()  # float32 [K], the share of each update in the delta, if `Reduce.reports_shares`; else ()


class Sender(NamedTuple):
    """The client whose update a stage is given."""

    client: jax.Array  # int32 []
    round: jax.Array  # int32 []
    key: jax.Array  # of this client, this round and this stage alone
    examples: jax.Array  # float32 [], examples that the client holds
    times: jax.Array  # float32 [], factor on its weight: 2 if it was drawn twice, below 1 for unfinished work
    server: "UplinkState"  # the state of the server's side of the uplink, as it was broadcast


class RoundContext(NamedTuple):
    """What a reduction, or the server's side of a stage, is told about the round."""

    round: jax.Array  # int32 []
    key: jax.Array  # of this round and this stage alone
    total_weight: jax.Array  # float32 [], the sum of weights that all clients of the federation would send
    expected_weight: jax.Array  # float32 [], the sum of weights of a cohort, in the mean over cohorts
    client: PyTree = ()  # int32 [K], the client at each place of the cohort; stages are told as well
    audit_sums: PyTree = ()  # what an audit has seen of the cohort's local steps, summed; () without one


class SimulationParts(NamedTuple):
    """The simulation as `check_compatible` of a stage or a reduction sees it."""

    algorithm: "Algorithm"
    task: "Task"
    sampler: "Sampler"
    local: "Local"
    sent: Update  # shapes of the update that `Algorithm.finish` returns
    uplink: "Uplink"


def no_state(sent: Update) -> State:
    """Returns (): a stage or reduction without state."""
    return ()


def pass_update(update: Update, state: State, sender: Sender) -> tuple[Update, State, Notes]:
    """Returns the update unchanged: a stage that does nothing at the client."""
    return update, state, {}


def pass_aggregate(aggregate: Aggregate, state: State, at: RoundContext) -> tuple[Aggregate, State]:
    """Returns the aggregate unchanged: a stage that does nothing at the server."""
    return aggregate, state


def unbounded(bound: float) -> float:
    """Returns infinity: a stage that gives no bound on the norm of an update."""
    return float("inf")


def same_bytes(sent: Update, nbytes: int) -> int:
    """Returns `nbytes` unchanged: a stage that does not change how an update is encoded."""
    return nbytes


def always_compatible(parts: SimulationParts) -> None:
    """Accepts every simulation: the stage or reduction works in all of them."""


class Stage(NamedTuple):
    """One operation on updates, with a client's and a server's side.

    The default sides change nothing. The default sensitivity is infinite: a stage must say what it does to a bound.
    """

    name: str  # in messages and in the log, where notes are named uplink/<name>/<note>
    init: Callable[[Update], State] = no_state  # shapes of what clients send -> the server's state
    init_client: Callable[[Update], State] = no_state  # the same -> a client's state; absent clients keep theirs
    client: Callable[[Update, State, Sender], tuple[Update, State, Notes]] = pass_update
    server: Callable[[Aggregate, State, RoundContext], tuple[Aggregate, State]] = pass_aggregate
    sensitivity: Callable[[float], float] = unbounded  # bound on the norm of a client's delta: before -> after
    linear: bool = False  # whether what it sends can be summed as it is, so that secure aggregation may follow it
    wire: Callable[[Update, int], int] = same_bytes  # (shapes, bytes before the stage) -> bytes that a client sends
    # Raises UserError if the stage does not work in this simulation.
    check_compatible: Callable[[SimulationParts], None] = always_compatible
    parts: "tuple[Stage, ...] | None" = None  # of a chain, in order


def sum_over_devices(accumulated: PyTree, axis: str) -> PyTree:
    """Returns the sum over the mesh axis, which merges running sums, and rows that only one device has filled."""
    return jax.lax.psum(accumulated, axis)


def same_accumulator(empty: PyTree, root: jax.Array, round: jax.Array) -> PyTree:
    """Returns the empty accumulator unchanged: a reduction that draws nothing before updates come."""
    return empty


class Reduce(NamedTuple):
    """How a cohort's updates become one aggregate: accumulated on each device, merged over devices, then finished.

    An update is added with its place in the cohort, int32 from 0 to K - 1; -1 marks a lane without an update.
    """

    name: str
    zero: Callable[[Update, int], PyTree]  # (shapes, K places) -> empty accumulator
    add: Callable[[PyTree, Update, jax.Array], PyTree]  # (accumulator, updates [L, ...], places [L]) -> accumulator
    finish: Callable[[PyTree, State, RoundContext], tuple[Aggregate, State]]  # (merged accumulator, state, round)
    init: Callable[[Update], State] = no_state  # shapes of what clients send -> first state
    # (empty accumulator, root key of the run, round int32 []) -> accumulator at the beginning of a round
    begin: Callable[[PyTree, jax.Array, jax.Array], PyTree] = same_accumulator
    merge: Callable[[PyTree, str], PyTree] = sum_over_devices  # (a device's accumulator, mesh axis) -> merged
    # Whether it needs only the sum of updates, so that secure aggregation may precede it. What it adds for an update is
    # then at most 1 in magnitude where the update's values and its weight are.
    linear: bool = False
    check_compatible: Callable[[SimulationParts], None] = always_compatible
    rule: "Rule | None" = None  # that combines single updates
    # (vectors, state, round) -> delta, shares of the rows if the rule weighs them, state: what `matrix` does with them
    combine: "Callable[[Vectors, State, RoundContext], tuple[PyTree, PyTree, State]] | None" = None
    reports_shares: bool = False  # whether `finish` says which share of the delta each update has


class Uplink(NamedTuple):
    """All parts of the uplink. Weighting comes first, so that it cannot undo the bound of a stage."""

    weigh: Callable[[jax.Array], jax.Array]  # examples, float32 [...] -> weights, float32 [...]
    stages: Stage  # all stages, combined by `chain`
    reduce: Reduce
    empty_round: Literal["skip", "release"] = "skip"  # "release": the server moves even if no client sent anything


class UplinkState(NamedTuple):
    """State of the server's side of the uplink between rounds."""

    stages: State
    reduce: State


def init(uplink: Uplink, sent: Update) -> UplinkState:
    """Returns the state of the server's side before the first round; `sent` has the shapes of an update."""
    return UplinkState(uplink.stages.init(sent), uplink.reduce.init(sent))


def wire_bytes(uplink: Uplink, sent: Update) -> int:
    """Returns the bytes that one client sends in a round; `sent` has the shapes of its update."""
    return uplink.stages.wire(sent, trees.nbytes((sent.delta, sent.auxiliary)))


def check(parts: SimulationParts) -> None:
    """Raises UserError if a stage or the reduction does not work in this simulation."""
    parts.uplink.stages.check_compatible(parts)
    parts.uplink.reduce.check_compatible(parts)


def refuse_auxiliary(parts: SimulationParts, part: str, why: str) -> None:
    """Raises UserError, in the name of a `part` of the simulation, if clients send more than a change of the model.

    `why` is a relative clause that says what is wrong with the rest.
    """
    if jax.tree.leaves(parts.sent.auxiliary):
        raise UserError(
            f"{part}: this algorithm sends more than a change of the model (control variates or step counts), {why}; "
            "choose --fed.algorithm fedavg, fedprox or fedadam"
        )


def refuse_statistics(parts: SimulationParts, part: str, subject: str) -> None:
    """Raises UserError, in the name of a `part` of the uplink, if clients send statistics.

    `subject` is what the part adds to updates, with its verb: from earlier rounds it could make a variance negative.
    """
    if jax.tree.leaves(parts.sent.delta.carry):
        raise UserError(f"{part}: {subject} no change of BatchNorm's statistics; choose --task.network.norm group")
