"""The engine: rounds of a federated run as one compiled program.

    sample a cohort -> deal its clients out to lanes -> on each device, all lanes step until their queues are empty
    -> one sum over devices -> server

Each lane holds one client's model and optimiser. When its client is done the lane adds the update to the device's sum
and takes the next client of its queue, so unequal hospitals leave lanes idle only in the tail of a round.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import keys, programs, trees
from fedjax_mri.data.contract import ClientData
from fedjax_mri.fed.algorithm import Algorithm, LocalResult, ServerState, traffic
from fedjax_mri.fed.client import local as locally
from fedjax_mri.fed.client.local import Local, Start
from fedjax_mri.fed.engine import placement
from fedjax_mri.fed.engine.placement import Placed
from fedjax_mri.fed.engine.plan import AXIS, Plan
from fedjax_mri.fed.engine.schedule import Queues, longest_first
from fedjax_mri.fed.sampling import Cohort, Sampler
from fedjax_mri.fed.uplink.uplink import Update, Uplink
from fedjax_mri.fed.world.conditions import Conditions, Spent, Turnout, ideal
from fedjax_mri.tasks.task import Metrics, Model, Task

PyTree = Any


class Simulation(NamedTuple):
    """All that defines a run but its seed."""

    task: Task
    algorithm: Algorithm
    uplink: Uplink
    sample: Sampler
    local: Local
    data: ClientData
    conditions: Conditions = ideal


class Kept(NamedTuple):
    """What stays with a client between rounds; as arrays over clients, each leaf has a leading axis [N]."""

    model: Model  # what does not travel
    state: PyTree  # the algorithm's
    uplink: PyTree  # the stages'
    rounds: jax.Array  # int32 [], rounds it has trained in


class State(NamedTuple):
    """A run between two rounds."""

    round: jax.Array  # int32 [], rounds done
    server: ServerState
    uplink: PyTree
    clients: Any  # Kept [N, ...], as NumPy arrays where the plan holds it on the host; () where a round needs no more


class Work(NamedTuple):
    """What a round, or a device's share of it, has amounted to."""

    metrics: Metrics  # sums over the cohort's local steps
    examples: jax.Array  # float32 [], examples trained on, each as often as it was
    steps: jax.Array  # int32 [], local steps that trained someone
    slots: jax.Array  # int32 [], lane passes, idle ones too: steps / slots is the useful share
    clients: jax.Array  # int32 [], clients trained
    spent: Spent  # what the round cost outside of this machine


class Lane(NamedTuple):
    """One client in training; as arrays over a device's lanes, each leaf has a leading axis [L]."""

    turn: jax.Array  # int32 [], position in the queues' order
    step: jax.Array  # int32 [], local steps done for this client
    model: Model
    optimizers: tuple[Any, ...]
    noted: PyTree  # what the algorithm has noted on the way


class Tally(NamedTuple):
    """What a device has gathered so far in a round."""

    total: PyTree  # the reduction's running sum
    clients: Kept  # [K, ...], zeros but for the places this device trained
    work: Work


class Round(NamedTuple):
    """What every lane reads and none changes."""

    key: jax.Array  # root key of the run
    number: jax.Array  # int32 []
    server: ServerState
    client: jax.Array  # int32 [K]
    size: jax.Array  # int32 [K], examples
    times: jax.Array  # float32 [K], how often a client's weight counts
    late: jax.Array  # int32 [K], server steps since the broadcast a client starts from
    full: jax.Array  # int32 [K], local steps that all its epochs take
    steps: jax.Array  # int32 [K], local steps to do
    kept: Kept  # [K, ...]
    order: jax.Array  # int32 [K], places in queue order
    rate: jax.Array  # float32 [], learning rate


def init(sim: Simulation, root: jax.Array) -> State:
    """The state before the first round; every client starts from the same model."""
    state = alone(sim, root)
    return state._replace(clients=trees.repeat(state.clients, len(sim.data.sizes)))


def alone(sim: Simulation, root: jax.Array) -> State:
    """`init` with one client's state in place of N."""
    model = sim.task.init(keys.purpose(root, keys.Purpose.INIT))
    shared, rest = trees.split(sim.task.shared(model), model)
    one = Kept(rest, sim.algorithm.init_client(shared), sim.uplink.init_client(shared), jnp.int32(0))
    return State(jnp.int32(0), sim.algorithm.init(shared), sim.uplink.init(shared), one)


def first(sim: Simulation, plan: Plan, root: jax.Array) -> State:
    """`init`, where the plan wants it; clients held on the host are never on a device all at once."""
    make = partial(jax.jit, compiler_options=programs.options())
    if plan.clients == "device":
        return settle(plan, make(partial(init, sim))(root))
    state = make(partial(alone, sim))(root)
    clients = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], len(sim.data.sizes), 0), state.clients)
    return settle(plan, state._replace(clients=clients))


def settle(plan: Plan, state: State) -> State:
    """A state, from wherever it was, where the plan wants it."""
    clients, rest = state.clients, state._replace(clients=())
    if plan.clients == "host":
        clients = jax.tree.map(lambda x: np.require(x, requirements=["O", "W"]), clients)
    else:
        clients = plan.put(clients)
    return plan.put(rest)._replace(clients=clients)


def check(sim: Simulation, plan: Plan) -> None:
    """Raises UserError where the plan cannot hold the simulation's examples and its clients' state."""
    clients = jax.eval_shape(partial(init, sim), jax.random.key(0)).clients
    cohort = jax.eval_shape(partial(drawn, sim), jax.random.key(0), jnp.int32(0))
    placement.check(sim.data, plan, cohort.client.size, clients)


def drawn(sim: Simulation, root: jax.Array, number: jax.Array) -> Cohort:
    """The cohort of a round."""
    return sim.sample(keys.purpose(jax.random.fold_in(root, number), keys.Purpose.SAMPLE), number)


def one_round(
    sim: Simulation, plan: Plan, state: State, root: jax.Array, placed: Placed, cohort: Cohort
) -> tuple[State, Work]:
    """A cohort trains, the server takes its mean update, and each client keeps what is its own."""
    rows = trees.take(state.clients, cohort.client)
    after, trained, rows, work = learn(sim, plan, state._replace(clients=()), root, placed, cohort, rows)
    return after._replace(clients=trees.put(state.clients, trained, rows)), work


def learn(
    sim: Simulation, plan: Plan, state: State, root: jax.Array, placed: Placed, cohort: Cohort, rows: Kept
) -> tuple[State, jax.Array, Kept, Work]:
    """A round without the other clients: the state but for them, who trained (int32 [K], N for none) and their rows."""
    todo, queues, spent = prepare(sim, plan, cohort, state, root, placed, rows)
    total, rows, work = on_devices(sim, plan)(todo, queues.start, queues.stop, placed)
    aggregate = sim.uplink.reduce.finish(total, everyone(sim, placed.size))
    key = keys.purpose(jax.random.fold_in(root, state.round), keys.Purpose.SERVER)
    aggregate, uplink = sim.uplink.server(aggregate, state.uplink, key)
    trained = jnp.where(todo.steps > 0, cohort.client, len(sim.data.sizes))
    server = trees.select(work.clients > 0, sim.algorithm.server(state.server, aggregate), state.server)
    return State(state.round + 1, server, uplink, ()), trained, rows, work._replace(spent=spent)


def everyone(sim: Simulation, sizes: jax.Array) -> jax.Array:
    """The sum of weights, float32 [], that all clients, with `sizes` int32 [N] examples, would send."""

    def weight(size: jax.Array) -> jax.Array:
        update = Update((), size.astype(jnp.float32))
        return sim.uplink.client(update, sim.uplink.init_client(()), jax.random.key(0))[0].weight

    return jnp.sum(jax.vmap(weight)(sizes))


def prepare(
    sim: Simulation, plan: Plan, cohort: Cohort, state: State, root: jax.Array, placed: Placed, rows: Kept
) -> tuple[Round, Queues, Spent]:
    """The round's work, the queues it is dealt out to, and what it costs clients and network.

    Absent clients, those without examples and those whose update is lost have no steps.
    """
    size = placed.size[cohort.client]
    full = jnp.where(cohort.present, locally.steps(sim.local, size), 0)
    turnout = met(sim, cohort, full, state, root)
    queues = longest_first(turnout.steps, plan.devices * plan.lanes, placed.home[cohort.client], plan.devices)
    todo = Round(
        key=root,
        number=state.round,
        server=state.server,
        client=cohort.client,
        size=size,
        times=cohort.times * turnout.share,
        late=cohort.late,
        full=full,
        steps=turnout.steps,
        kept=rows,
        order=queues.order,
        rate=sim.local.schedule(state.round),
    )
    return todo, queues, turnout.spent


def met(sim: Simulation, cohort: Cohort, full: jax.Array, state: State, root: jax.Array) -> Turnout:
    """What becomes of the `full` int32 [K] local steps of a cohort under the simulation's conditions."""
    key = keys.purpose(jax.random.fold_in(root, state.round), keys.Purpose.CONDITIONS)
    return sim.conditions(key, state.round, cohort, full, traffic(sim.algorithm, state.server.model)[0] / 1e6)


def on_devices(sim: Simulation, plan: Plan) -> Callable[..., Tally]:
    """`run_lanes` on each device for its own queues and examples, and the sum of what they gathered."""
    whole = jax.sharding.PartitionSpec()
    sim = sim._replace(data=placement.located(sim.data))

    def alone(todo: Round, start: jax.Array, stop: jax.Array, placed: Placed) -> Tally:
        return run_lanes(sim, todo, start, stop, placement.here(placed, plan))

    if plan.devices == 1:  # it may be one of several that each have a run of their own: no word between them
        return alone

    def share(todo: Round, start: jax.Array, stop: jax.Array, placed: Placed) -> Tally:
        first = jax.lax.axis_index(AXIS) * plan.lanes
        start, stop = (jax.lax.dynamic_slice_in_dim(bound, first, plan.lanes) for bound in (start, stop))
        gathered = alone(todo, start, stop, placed)
        slots = jax.lax.pmax(gathered.work.slots, AXIS)  # every device waits for the slowest
        return jax.lax.psum(gathered._replace(work=gathered.work._replace(slots=slots)), AXIS)

    # Tracking of varying axes would sum gradients of the replicated start over devices ahead of a per-client clip;
    # without it a device's gradients are its own, and the only sum over devices is the one above.
    specs = (whole, whole, whole, placement.specs(plan))
    return jax.shard_map(share, mesh=plan.mesh(), in_specs=specs, out_specs=whole, check_vma=False)


def run_lanes(sim: Simulation, todo: Round, start: jax.Array, stop: jax.Array, store: PyTree) -> Tally:
    """Trains the clients in queues start[l]..stop[l] (int32 [L]), a step in every lane at a time."""
    step = jax.jit(partial(one_step, sim), inline=True)  # traced once, for its shapes and for the loop
    lanes = jax.vmap(lambda turn: enter(sim, todo, turn))(start)
    gathered = nothing(sim, todo, jax.eval_shape(step, todo, store, trees.take(lanes, jnp.int32(0))))

    def body(carry: tuple[Lane, Tally]) -> tuple[Lane, Tally]:
        lanes, gathered = carry
        active = lanes.turn < stop
        # An idle lane goes on with its last client, for nothing: what it holds is never handed in again.
        lanes, sums = jax.vmap(step, (None, None, 0))(todo, store, lanes)
        gathered = gathered._replace(work=count(gathered.work, sums, active))
        done = active & (lanes.step >= todo.steps[place(todo, lanes.turn)])
        return jax.lax.cond(done.any(), lambda: change(sim, todo, lanes, gathered, done), lambda: (lanes, gathered))

    return jax.lax.while_loop(lambda carry: jnp.any(carry[0].turn < stop), body, (lanes, gathered))[1]


def nothing(sim: Simulation, todo: Round, stepped: tuple[Lane, tuple[Metrics, jax.Array]]) -> Tally:
    """What a device has gathered before its first step; `stepped` has the shapes of what that will give."""
    lane, sums = stepped
    update = jax.eval_shape(lambda lane: leave(sim, todo, lane)[0], lane)
    metrics, examples = trees.zeros_like(sums)
    spent = Spent(*(jnp.float32(0) for _ in Spent._fields))
    work = Work(metrics, examples, jnp.int32(0), jnp.int32(0), jnp.int32(0), spent)
    return Tally(sim.uplink.reduce.zero(update.delta), trees.zeros_like(todo.kept), work)


def place(todo: Round, turn: jax.Array) -> jax.Array:
    """The cohort's place whose turn it is; past the end, the last."""
    return todo.order[jnp.minimum(turn, todo.order.size - 1)]


def enter(sim: Simulation, todo: Round, turn: jax.Array) -> Lane:
    """A lane at the first step of the client whose turn it is."""
    model = begin(sim, todo, turn).model
    optimizers = locally.init_optimizers(sim.task, sim.local, model, todo.rate)
    return Lane(turn, jnp.zeros_like(turn), model, optimizers, locally.nothing_noted(sim.algorithm, model.params))


def begin(sim: Simulation, todo: Round, turn: jax.Array) -> Start:
    """What the client whose turn it is starts from."""
    here = place(todo, turn)
    kept, server = trees.take(todo.kept, here), sim.algorithm.broadcast(todo.server, todo.late[here])
    return Start(trees.join(server.model, kept.model), server, kept.state)


def one_step(sim: Simulation, todo: Round, store: PyTree, lane: Lane) -> tuple[Lane, tuple[Metrics, jax.Array]]:
    """The lane after one local step of its client, with the step's metrics and number of examples."""
    here = place(todo, lane.turn)
    key = keys.client(todo.key, todo.number, todo.client[here])
    client, size = todo.client[here], todo.size[here]
    batch = locally.read(sim.data, sim.local, store, client, size, todo.number, lane.step, key)
    key = jax.random.fold_in(keys.purpose(key, keys.Purpose.STEP), lane.step)
    start, optimizer = begin(sim, todo, lane.turn), sim.local.optimizer(todo.rate)
    progress = lane.step / todo.full[here]
    model, states, noted, metrics = locally.step(
        sim.task, sim.algorithm, optimizer, start, lane.model, lane.optimizers, batch, progress, key
    )
    lane = Lane(lane.turn, lane.step + 1, model, states, trees.add(lane.noted, noted))
    return lane, (metrics, batch["weight"].sum())


def change(sim: Simulation, todo: Round, lanes: Lane, gathered: Tally, done: jax.Array) -> tuple[Lane, Tally]:
    """Lanes that are `done` (bool [L]) hand in their client's update and take the next of their queue."""
    updates, kept = jax.vmap(lambda lane: leave(sim, todo, lane))(lanes)
    places = jnp.where(done, place(todo, lanes.turn), todo.client.size)
    total = sim.uplink.reduce.add(gathered.total, updates, done)
    fresh = jax.vmap(lambda lane: enter(sim, todo, lane.turn + 1))(lanes)
    work = gathered.work._replace(clients=gathered.work.clients + jnp.sum(done).astype(jnp.int32))
    return trees.select(done, fresh, lanes), Tally(total, trees.put(gathered.clients, places, kept), work)


def leave(sim: Simulation, todo: Round, lane: Lane) -> tuple[Any, Kept]:
    """The update of a lane's client, and what stays with it."""
    here = place(todo, lane.turn)
    key = keys.client(todo.key, todo.number, todo.client[here])
    shared, rest = trees.split(sim.task.shared(lane.model), lane.model)
    examples, late, times = todo.size[here].astype(jnp.float32), todo.late[here], todo.times[here]
    result = LocalResult(shared, lane.step, examples, todo.rate, late, times, lane.noted)
    kept = trees.take(todo.kept, here)
    server = sim.algorithm.broadcast(todo.server, late)
    update, state = sim.algorithm.finish(server, kept.state, result)
    update, uplink = sim.uplink.client(update, kept.uplink, keys.purpose(key, keys.Purpose.UPLINK))
    update = update._replace(weight=update.weight * times)
    return update, Kept(rest, state, uplink, kept.rounds + 1)


def count(work: Work, sums: tuple[Metrics, jax.Array], active: jax.Array) -> Work:
    """`work` after one pass of the lanes, each with its `sums`, of which `active` bool [L] trained someone."""
    kept = trees.select(active, sums, trees.zeros_like(sums))
    metrics, examples = trees.add((work.metrics, work.examples), jax.tree.map(lambda x: x.sum(0), kept))
    steps, slots = work.steps + jnp.sum(active), work.slots + active.size
    return work._replace(metrics=metrics, examples=examples, steps=steps, slots=slots)
