"""Trains several runs, the members of a group, as one compiled program.

Members differ in seed, in numeric settings, and in data of the same shapes. If there are at least as many members as
devices, each device trains its share of them, one after another ("map") or side by side ("vmap"), and no device waits
for another before the segment ends. Fewer members are trained one after another, each by all devices.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import programs, trees
from fedjax_mri.core.programs import Shardings
from fedjax_mri.data import resident
from fedjax_mri.data.contract import ClientData, Test
from fedjax_mri.data.resident import Resident
from fedjax_mri.fed.engine import evaluate, placement, segments
from fedjax_mri.fed.engine.evaluate import Evaluation
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import AXIS, Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state
from fedjax_mri.tasks.task import Metrics

PyTree = Any
Hyperparameters = dict[str, jax.Array]  # name of a setting -> float32 []; or other arrays that members differ in
# (hyperparameters, examples of each client int32 [N]) -> simulation
Make = Callable[[Hyperparameters, jax.Array], Simulation]
# (states, rounds int32 [M]) -> (states that many rounds on, work [M, rounds, ...]); the states handed in are donated
Segment = Callable[[State, np.ndarray], tuple[State, RoundStats]]
SMALL_MODEL = 100_000  # parameters; one step of a smaller model leaves an accelerator idle, so members go side by side


class GroupMember(NamedTuple):
    """One run; as arrays over members, each leaf has a leading axis [M]."""

    hyperparameters: Hyperparameters
    root: jax.Array  # key from which its randomness starts
    data: jax.Array  # int32 [], index of its data set


def own_data_set(placed: PlacedData, member: GroupMember) -> PlacedData:
    """Returns the data set that a member names, of U data sets [U, ...]."""
    return trees.take(placed, member.data)


class RunGroup(NamedTuple):
    """The members of one compiled program, and their data on the devices."""

    make: Make
    plan: Plan  # of the group
    each: Plan  # of one member
    members: GroupMember  # [M, ...], the last one repeated to fill all devices
    placed: PlacedData  # U data sets, [U, ...]
    view: Callable[[PlacedData, GroupMember], PlacedData] = own_data_set  # what a member sees of them


class GroupTest(NamedTuple):
    """A test set of each of U data sets, on the devices; each leaf has a leading axis [U]."""

    store: PyTree
    owner: np.ndarray  # int32 [M]
    chunks: tuple[np.ndarray, ...]  # see `evaluate.chunk_examples`


def data_signature(data: ClientData) -> Any:
    """Returns functions and shapes of a data set; data sets with equal signatures can share a program.

    The number of rows of a resident store does not count. Returns None for data that are never held whole.
    """
    if data.store is None:
        return None
    leaves, structure = jax.tree.flatten(jax.tree.map(_without_rows, data.store, is_leaf=_is_resident))
    functions = data._replace(sizes=np.zeros(0), store=None, fetch=None, patients=None)[1:]
    return len(data.sizes), functions, structure, tuple((np.shape(leaf), np.result_type(leaf)) for leaf in leaves)


def place_on_devices(make: Make, plan: Plan, members: Sequence[GroupMember], data: Sequence[ClientData]) -> RunGroup:
    """Returns `members` and the `data` they refer to, placed on the devices of a resolved plan."""
    each = plan if len(members) < plan.devices else replace(plan, devices=1)
    filled = [*members, *[members[-1]] * (-len(members) % (plan.devices // each.devices))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)
    placed = plan.replicate(stack([placement.all_examples(dataset) for dataset in data]))
    group = RunGroup(make, plan, each, stacked, placed)
    return group._replace(members=jax.device_put(stacked, member_sharding(group)))


def resolve_members(plan: Plan, parameters: int) -> Plan:
    """Returns `plan` with its `members` decided by rule for a model with this number of `parameters`.

    A CPU trains members faster one after another: side by side they all step together, and every branch is computed.
    """
    if plan.members != "auto":
        return plan
    side_by_side = parameters <= SMALL_MODEL and jax.default_backend() != "cpu"
    return replace(plan, members="vmap" if side_by_side else "map")


def stack(items: Sequence[PyTree]) -> PyTree:
    """Returns U trees of host arrays as one with a leading axis [U]. Resident stores are padded to the most rows."""
    rows = max((_rows(tree) for tree in items), default=0)
    padded = [jax.tree.map(partial(_with_rows, rows), tree, is_leaf=_is_resident) for tree in items]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def over_members(group: RunGroup, function: Callable[[PyTree, PyTree], PyTree]) -> Callable[[PyTree, PyTree], PyTree]:
    """Returns a function that maps `function(shared, row)` over members.

    Its arguments are `shared`, which all members see, and `rows` [M, ...], of which each member sees its own row.
    """

    def mapped(shared: PyTree, rows: PyTree) -> PyTree:
        each = partial(function, shared)
        return jax.vmap(each)(rows) if group.plan.members == "vmap" else jax.lax.map(each, rows)

    if not divided_among_devices(group):
        return mapped
    replicated, divided = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    return jax.shard_map(
        mapped, mesh=group.plan.mesh(), in_specs=(replicated, divided), out_specs=divided, check_vma=False
    )


def divided_among_devices(group: RunGroup) -> bool:
    """Returns whether each member has one device; otherwise all devices train one member after another."""
    return group.each.devices < group.plan.devices


def member_sharding(group: RunGroup) -> jax.sharding.NamedSharding:
    """Returns the sharding of arrays with a leading axis [M]."""
    return group.plan.sharded_over_devices() if divided_among_devices(group) else group.plan.replicated_sharding()


def member_simulation(group: RunGroup, placed: PlacedData, member: GroupMember) -> Simulation:
    """Returns the simulation of one member. Its hyperparameters may be tracers, known only when the program runs."""
    return group.make(member.hyperparameters, group.view(placed, member).size)


def first_states(group: RunGroup) -> State:
    """Returns the states of all members before their first round, [M, ...]."""

    def first_state(placed: PlacedData, member: GroupMember) -> State:
        return init_state(member_simulation(group, placed, member), member.root)

    make = jax.jit(
        over_members(group, first_state), out_shardings=member_sharding(group), compiler_options=programs.xla_options()
    )
    return make(group.placed, group.members)


def build(group: RunGroup, state: State, max_rounds: int) -> Segment:
    """Returns the compiled segment of all members, of up to `max_rounds` rounds, for states with the shapes of `state`.

    Raises UserError if the program does not fit into the memory of a device.
    """

    def train_member(placed: PlacedData, row: tuple[State, GroupMember, jax.Array]) -> tuple[State, RoundStats]:
        state, member, rounds = row
        sim = member_simulation(group, placed, member)
        return segments.run_rounds(sim, group.each, max_rounds, state, member.root, group.view(placed, member), rounds)

    train_members = over_members(group, train_member)
    by_member, replicated = member_sharding(group), group.plan.replicated_sharding()
    shardings = Shardings((by_member, replicated, by_member, by_member), by_member, donated=(0,))
    count = group.members.data.size
    args = state, group.placed, group.members, np.zeros(count, np.int32)
    program = programs.compile_program(
        lambda state, placed, *rest: train_members(placed, (state, *rest)), shardings, args
    )
    group.plan.refuse_excess(program.memory_analysis())

    def segment(state: State, rounds: np.ndarray) -> tuple[State, RoundStats]:
        padded = jax.device_put(np.pad(rounds.astype(np.int32), (0, count - len(rounds))), by_member)
        state, work = jax.block_until_ready(program(state, group.placed, group.members, padded))
        return state, jax.tree.map(lambda x: np.asarray(x)[: len(rounds), : rounds.max()], work)

    return segment


def evaluator(group: RunGroup, tests: Sequence[Mapping[str, Test]]) -> Callable[[State], dict[str, Evaluation]]:
    """Returns a function from states [M, ...] to results [M, clients, ...] on each test set, which keep no fields.

    `tests` holds the test sets of each of the group's data sets.
    """
    arrays = {name: group.plan.replicate(stack_tests([sets[name] for sets in tests], group.each)) for name in tests[0]}

    @functools.cache
    def program(read: Callable[..., Any]) -> Callable[..., tuple[Metrics, jax.Array]]:
        def evaluate_member(
            shared: tuple[GroupTest, PlacedData], row: tuple[State, GroupMember]
        ) -> tuple[Metrics, jax.Array]:
            state, member = row
            test, task = trees.take(shared[0], member.data), member_simulation(group, shared[1], member).task
            on_devices = evaluate.evaluate_on_devices(task, group.each, read)
            parts = evaluate.client_parts(state.clients, test.owner)
            return on_devices(state.server.model, parts, test.store, test.owner, *test.chunks)[0]

        return jax.jit(over_members(group, evaluate_member), compiler_options=programs.xla_options())

    def evaluate_all(state: State) -> dict[str, Evaluation]:
        rows = state, group.members
        results = {name: program(tests[0][name].data.read)((test, group.placed), rows) for name, test in arrays.items()}
        found = {name: jax.tree.map(np.asarray, one) for name, one in results.items()}
        return {name: Evaluation(metrics, {}, nonfinite) for name, (metrics, nonfinite) in found.items()}

    return evaluate_all


def stack_tests(tests: Sequence[Test], plan: Plan) -> GroupTest:
    """Returns one test set of each of U data sets, padded to the same shapes and stacked, [U, ...]."""
    capacity = max(int(test.data.sizes.sum()) for test in tests)
    return stack(
        [
            GroupTest(resident.whole(test.data), test.owner, evaluate.chunk_examples(test.data.sizes, plan, capacity))
            for test in tests
        ]
    )


def _is_resident(node: Any) -> bool:
    return isinstance(node, Resident)


def _rows(tree: PyTree) -> int:
    stores = [node for node in jax.tree.leaves(tree, is_leaf=_is_resident) if _is_resident(node)]
    return max((len(field) for store in stores for field in store.fields.values()), default=0)


def _without_rows(node: Any) -> Any:
    return (
        node._replace(fields={name: field[:0] for name, field in node.fields.items()}) if _is_resident(node) else node
    )


def _with_rows(rows: int, node: Any) -> Any:
    if not _is_resident(node):
        return node
    return node._replace(fields={name: resident.flat([field], rows) for name, field in node.fields.items()})
