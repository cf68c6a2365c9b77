"""Several runs as one compiled program: they differ in seed, in data of the same shapes, and in numbers.

    on each device: its share of the members, in turn ("map") or side by side ("vmap"), each a run of its own

Where there are at least as many members as devices, each member has one device to itself, and no device waits for
another before the segment ends. Fewer members are trained in turn, each by all devices.
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
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.placement import Placed
from fedjax_mri.fed.engine.plan import AXIS, Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state
from fedjax_mri.tasks.task import Metrics

PyTree = Any
Numbers = dict[str, jax.Array]  # name -> float32 []
Make = Callable[[Numbers, jax.Array], Simulation]  # (numbers, examples of each client int32 [N]) ->
# (states, rounds int32 [M]) -> (states that many rounds on, work [M, rounds, ...]); the states handed in are consumed
Segment = Callable[[State, np.ndarray], tuple[State, RoundStats]]
SMALL_MODEL = 100_000  # parameters of a model of which a step leaves an accelerator idle: members go side by side


class Member(NamedTuple):
    """One run; as arrays over members, each leaf has a leading axis [M]."""

    numbers: Numbers
    root: jax.Array  # key from which its randomness starts
    data: jax.Array  # int32 [], its place among the data sets


class Group(NamedTuple):
    """Members that share a program."""

    make: Make
    plan: Plan  # of all
    each: Plan  # of one
    members: Member  # [M, ...], the last one repeated to fill all devices
    placed: Placed  # of U data sets, [U, ...]


class Tested(NamedTuple):
    """A test set of each of U data sets; each leaf has a leading axis [U]."""

    store: PyTree
    owner: np.ndarray  # int32 [M]
    chunks: tuple[np.ndarray, ...]  # see `evaluate.deal`


def data_signature(data: ClientData) -> Any:
    """Returns what data sets of one program have in common: functions, and shapes but for the number of resident rows.

    None for data that are never held whole.
    """
    if data.store is None:
        return None
    leaves, structure = jax.tree.flatten(jax.tree.map(_without_rows, data.store, is_leaf=_is_resident))
    functions = data._replace(sizes=np.zeros(0), store=None, fetch=None)[1:]
    return len(data.sizes), functions, structure, tuple((np.shape(leaf), np.result_type(leaf)) for leaf in leaves)


def place(make: Make, plan: Plan, members: Sequence[Member], data: Sequence[ClientData]) -> Group:
    """Returns `members` and the `data` they refer to, placed on the devices of a resolved plan."""
    each = plan if len(members) < plan.devices else replace(plan, devices=1)
    filled = [*members, *[members[-1]] * (-len(members) % (plan.devices // each.devices))]
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)
    placed = plan.put(stack([placement.all_examples(one) for one in data]))
    group = Group(make, plan, each, several, placed)
    return group._replace(members=jax.device_put(several, member_sharding(group)))


def resolve_members(plan: Plan, parameters: int) -> Plan:
    """Returns `plan` with its `members` decided by rule, for a model of so many parameters.

    A processor trains members faster in turn: side by side, each step is one of all, and every branch is taken.
    """
    if plan.members != "auto":
        return plan
    beside = parameters <= SMALL_MODEL and jax.default_backend() != "cpu"
    return replace(plan, members="vmap" if beside else "map")


def stack(several: Sequence[PyTree]) -> PyTree:
    """Returns U trees on the host as one with a leading axis [U]; resident stores get the rows of the largest."""
    rows = max((_rows(tree) for tree in several), default=0)
    padded = [jax.tree.map(partial(_with_rows, rows), tree, is_leaf=_is_resident) for tree in several]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def over_members(group: Group, one: Callable[[PyTree, PyTree], PyTree]) -> Callable[[PyTree, PyTree], PyTree]:
    """Returns what maps `one(whole, mine)` over members: all see `whole`, each its own row of `mine` [M, ...]."""

    def several(whole: PyTree, mine: PyTree) -> PyTree:
        each = partial(one, whole)
        return jax.vmap(each)(mine) if group.plan.members == "vmap" else jax.lax.map(each, mine)

    if not divided_among_devices(group):
        return several
    whole, mine = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    return jax.shard_map(several, mesh=group.plan.mesh(), in_specs=(whole, mine), out_specs=mine, check_vma=False)


def divided_among_devices(group: Group) -> bool:
    """Returns whether each member has one device; else all devices train one member after another."""
    return group.each.devices < group.plan.devices


def member_sharding(group: Group) -> jax.sharding.NamedSharding:
    """Returns the sharding of arrays with a leading axis [M]."""
    return group.plan.divided() if divided_among_devices(group) else group.plan.everywhere()


def member_simulation(group: Group, placed: Placed, member: Member) -> Simulation:
    """Returns the simulation of one member, whose own numbers may be known only when the program runs."""
    return group.make(member.numbers, placed.size[member.data])


def first_states(group: Group) -> State:
    """Returns the states of all members before their first round, [M, ...]."""

    def one(placed: Placed, member: Member) -> State:
        return init_state(member_simulation(group, placed, member), member.root)

    make = jax.jit(
        over_members(group, one), out_shardings=member_sharding(group), compiler_options=programs.xla_options()
    )
    return make(group.placed, group.members)


def build(group: Group, state: State, most: int) -> Segment:
    """Returns the compiled rounds of all members, up to `most` in a segment, from states of the shapes of `state`.

    Raises UserError where a device cannot hold them.
    """

    def one(placed: Placed, mine: tuple[State, Member, jax.Array]) -> tuple[State, RoundStats]:
        state, member, rounds = mine
        sim = member_simulation(group, placed, member)
        return segments.run_rounds(sim, group.each, most, state, member.root, trees.take(placed, member.data), rounds)

    many = over_members(group, one)
    mine, whole = member_sharding(group), group.plan.everywhere()
    form, count = Shardings((mine, whole, mine, mine), mine, consumed=(0,)), group.members.data.size
    given = state, group.placed, group.members, np.zeros(count, np.int32)
    program = programs.compile_program(lambda state, placed, *mine: many(placed, (state, *mine)), form, given)
    group.plan.refuse_excess(program.memory_analysis())

    def segment(state: State, rounds: np.ndarray) -> tuple[State, RoundStats]:
        given = jax.device_put(np.pad(rounds.astype(np.int32), (0, count - len(rounds))), mine)
        state, work = jax.block_until_ready(program(state, group.placed, group.members, given))
        return state, jax.tree.map(lambda x: np.asarray(x)[: len(rounds), : rounds.max()], work)

    return segment


def evaluator(group: Group, tests: Sequence[Mapping[str, Test]]) -> Callable[[State], dict[str, Metrics]]:
    """Returns a function that gives, for states [M, ...], metrics by member and client of each test set.

    tests: those of each of the group's data sets.
    """
    tested = {name: group.plan.put(stack_tests([one[name] for one in tests], group.each)) for name in tests[0]}

    @functools.cache
    def program(read: Callable[..., Any]) -> Callable[..., Metrics]:
        def one(whole: tuple[Tested, Placed], mine: tuple[State, Member]) -> Metrics:
            state, member = mine
            test, task = trees.take(whole[0], member.data), member_simulation(group, whole[1], member).task
            on_devices = evaluate.evaluate_on_devices(task, group.each, read)
            parts = evaluate.client_parts(state.clients, test.owner)
            return on_devices(state.server.model, parts, test.store, test.owner, *test.chunks)[0]

        return jax.jit(over_members(group, one), compiler_options=programs.xla_options())

    def evaluated(state: State) -> dict[str, Metrics]:
        mine = state, group.members
        done = {name: program(tests[0][name].data.read)((one, group.placed), mine) for name, one in tested.items()}
        return {name: jax.tree.map(np.asarray, metrics) for name, metrics in done.items()}

    return evaluated


def stack_tests(tests: Sequence[Test], plan: Plan) -> Tested:
    """Returns one test set of each data set, as arrays of the same shapes."""
    room = max(int(test.data.sizes.sum()) for test in tests)
    parts = (Tested(resident.whole(t.data), t.owner, evaluate.chunk_examples(t.data.sizes, plan, room)) for t in tests)
    return stack(list(parts))


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
