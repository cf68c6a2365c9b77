"""The engine: rounds of a federated run as one compiled program.

    sample a cohort -> deal its clients out to lanes -> on each device, all lanes step until their queues are empty
    -> one sum over devices -> server

Each lane holds one client's model and optimiser. When its client is done the lane adds the update to the device's sum
and takes the next client of its queue, so unequal hospitals leave lanes idle only in the tail of a round.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri import keys, trees
from fedjax_mri.data.client_data import ClientData
from fedjax_mri.fed import local as locally
from fedjax_mri.fed.algorithm import Algorithm, LocalResult, ServerState
from fedjax_mri.fed.local import Local, Start
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Cohort, Sampler
from fedjax_mri.fed.schedule import longest_first
from fedjax_mri.fed.uplink import Uplink
from fedjax_mri.tasks.task import Metrics, Model, Task

PyTree = Any
AXIS = "clients"


class Simulation(NamedTuple):
    """All that defines a run but its seed."""

    task: Task
    algorithm: Algorithm
    uplink: Uplink
    sample: Sampler
    local: Local
    data: ClientData


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
    clients: Kept  # [N, ...]


class Work(NamedTuple):
    """What a round, or a device's share of it, has amounted to."""

    metrics: Metrics  # sums over the cohort's local steps
    examples: jax.Array  # float32 [], examples trained on, each as often as it was
    steps: jax.Array  # int32 [], local steps that trained someone
    slots: jax.Array  # int32 [], lane passes, idle ones too: steps / slots is the useful share
    clients: jax.Array  # int32 [], clients trained


class Lane(NamedTuple):
    """One client in training; as arrays over a device's lanes, each leaf has a leading axis [L]."""

    turn: jax.Array  # int32 [], position in the queues' order
    step: jax.Array  # int32 [], local steps done for this client
    model: Model
    optimizers: tuple[Any, ...]


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
    steps: jax.Array  # int32 [K], local steps to do
    kept: Kept  # [K, ...]
    order: jax.Array  # int32 [K], places in queue order
    rate: jax.Array  # float32 [], learning rate


def init(sim: Simulation, root: jax.Array) -> State:
    """The state before the first round; every client starts from the same model."""
    model = sim.task.init(keys.purpose(root, keys.Purpose.INIT))
    shared, rest = trees.split(sim.task.shared(model), model)
    one = Kept(rest, sim.algorithm.init_client(shared), sim.uplink.init_client(shared), jnp.int32(0))
    clients = trees.repeat(one, len(sim.data.sizes))
    return State(jnp.int32(0), sim.algorithm.init(shared), sim.uplink.init(shared), clients)


def build(sim: Simulation, plan: Plan, most: int) -> Any:
    """The compiled `segment(state, root, store, rounds)`: up to `most` rounds, giving the new state and the
    rounds' work [most, ...], zeros past `rounds`. The state handed in is consumed."""
    train = on_devices(sim, plan)

    def segment(state: State, root: jax.Array, store: PyTree, rounds: jax.Array) -> tuple[State, Work]:
        shapes = jax.eval_shape(lambda s: one_round(sim, plan, train, s, root, store)[1], state)
        log = trees.zeros_like(jax.tree.map(lambda x: jax.ShapeDtypeStruct((most, *x.shape), x.dtype), shapes))

        def body(number: jax.Array, carry: tuple[State, Work]) -> tuple[State, Work]:
            state, work = one_round(sim, plan, train, carry[0], root, store)
            return state, trees.put(carry[1], number, work)

        return jax.lax.fori_loop(0, rounds, body, (state, log))

    # Whole everywhere: each process reads what comes out, and the next call takes it as it is.
    whole = jax.sharding.NamedSharding(plan.mesh(), jax.sharding.PartitionSpec())
    return jax.jit(segment, donate_argnums=0, out_shardings=whole)


def one_round(
    sim: Simulation, plan: Plan, train: Callable[..., Any], state: State, root: jax.Array, store: PyTree
) -> tuple[State, Work]:
    """A cohort trains, the server takes its mean update."""
    key = jax.random.fold_in(root, state.round)
    cohort = sim.sample(keys.purpose(key, keys.Purpose.SAMPLE), state.round)
    todo, queues = prepare(sim, plan, cohort, state, root)
    total, kept, work = train(todo, queues.start, queues.stop, store)
    aggregate = sim.uplink.reduce.finish(total, len(sim.data.sizes))
    aggregate, uplink = sim.uplink.server(aggregate, state.uplink, keys.purpose(key, keys.Purpose.SERVER))
    trained = jnp.where(todo.steps > 0, cohort.client, len(sim.data.sizes))
    clients = trees.put(state.clients, trained, kept)
    return State(state.round + 1, sim.algorithm.server(state.server, aggregate), uplink, clients), work


def prepare(sim: Simulation, plan: Plan, cohort: Cohort, state: State, root: jax.Array) -> tuple[Round, Any]:
    """The round's work and the queues it is dealt out to. Absent clients and those without examples have no steps."""
    size = jnp.asarray(sim.data.sizes, jnp.int32)[cohort.client]
    steps = jnp.where(cohort.present, locally.steps(sim.local, size), 0)
    queues = longest_first(steps, plan.devices * plan.lanes)
    kept = trees.take(state.clients, cohort.client)
    rate = sim.local.schedule(state.round)
    return Round(root, state.round, state.server, cohort.client, size, steps, kept, queues.order, rate), queues


def on_devices(sim: Simulation, plan: Plan) -> Callable[..., Tally]:
    """`run_lanes` on each device for its own queues, and the sum of what they gathered."""
    whole, mine = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)

    def share(todo: Round, start: jax.Array, stop: jax.Array, store: PyTree) -> Tally:
        gathered = run_lanes(sim, todo, start, stop, store)
        slots = jax.lax.pmax(gathered.work.slots, AXIS)  # every device waits for the slowest
        return jax.lax.psum(gathered._replace(work=gathered.work._replace(slots=slots)), AXIS)

    # Tracking of varying axes would sum gradients of the replicated start over devices ahead of a per-client clip;
    # without it a device's gradients are its own, and the only sum over devices is the one above.
    return jax.shard_map(share, mesh=plan.mesh(), in_specs=(whole, mine, mine, whole), out_specs=whole, check_vma=False)


def run_lanes(sim: Simulation, todo: Round, start: jax.Array, stop: jax.Array, store: PyTree) -> Tally:
    """Trains the clients in queues start[l]..stop[l] (int32 [L]), a step in every lane at a time."""
    lanes = jax.vmap(lambda turn: enter(sim, todo, turn))(start)
    gathered = nothing(sim, todo, store, trees.take(lanes, jnp.int32(0)))

    def body(carry: tuple[Lane, Tally]) -> tuple[Lane, Tally]:
        lanes, gathered = carry
        active = lanes.turn < stop
        stepped, sums = jax.vmap(lambda lane: one_step(sim, todo, store, lane))(lanes)
        lanes = trees.select(active, stepped, lanes)
        gathered = gathered._replace(work=count(gathered.work, sums, active))
        done = active & (lanes.step >= todo.steps[place(todo, lanes.turn)])
        return jax.lax.cond(done.any(), lambda: change(sim, todo, lanes, gathered, done), lambda: (lanes, gathered))

    return jax.lax.while_loop(lambda carry: jnp.any(carry[0].turn < stop), body, (lanes, gathered))[1]


def nothing(sim: Simulation, todo: Round, store: PyTree, lane: Lane) -> Tally:
    """What a device has gathered before its first step."""
    sums = jax.eval_shape(lambda: one_step(sim, todo, store, lane)[1])
    update = jax.eval_shape(lambda: leave(sim, todo, lane)[0])
    metrics, examples = trees.zeros_like(sums)
    work = Work(metrics, examples, jnp.int32(0), jnp.int32(0), jnp.int32(0))
    return Tally(sim.uplink.reduce.zero(update.delta), trees.zeros_like(todo.kept), work)


def place(todo: Round, turn: jax.Array) -> jax.Array:
    """The cohort's place whose turn it is; past the end, the last."""
    return todo.order[jnp.minimum(turn, todo.order.size - 1)]


def enter(sim: Simulation, todo: Round, turn: jax.Array) -> Lane:
    """A lane at the first step of the client whose turn it is."""
    model = begin(todo, turn).model
    return Lane(turn, jnp.zeros_like(turn), model, locally.init_optimizers(sim.task, sim.local, model, todo.rate))


def begin(todo: Round, turn: jax.Array) -> Start:
    """What the client whose turn it is starts from."""
    kept = trees.take(todo.kept, place(todo, turn))
    return Start(trees.join(todo.server.model, kept.model), todo.server, kept.state)


def one_step(sim: Simulation, todo: Round, store: PyTree, lane: Lane) -> tuple[Lane, tuple[Metrics, jax.Array]]:
    """The lane after one local step of its client, with the step's metrics and number of examples."""
    here = place(todo, lane.turn)
    key = keys.client(todo.key, todo.number, todo.client[here])
    batch = locally.read(sim.data, sim.local, store, todo.client[here], todo.size[here], lane.step, key)
    key = jax.random.fold_in(keys.purpose(key, keys.Purpose.STEP), lane.step)
    start, optimizer = begin(todo, lane.turn), sim.local.optimizer(todo.rate)
    model, states, metrics = locally.step(
        sim.task, sim.algorithm, optimizer, start, lane.model, lane.optimizers, batch, key
    )
    return Lane(lane.turn, lane.step + 1, model, states), (metrics, batch["weight"].sum())


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
    result = LocalResult(shared, lane.step, todo.size[here].astype(jnp.float32), todo.rate)
    kept = trees.take(todo.kept, here)
    update, state = sim.algorithm.finish(todo.server, kept.state, result)
    update, uplink = sim.uplink.client(update, kept.uplink, keys.purpose(key, keys.Purpose.UPLINK))
    return update, Kept(rest, state, uplink, kept.rounds + 1)


def count(work: Work, sums: tuple[Metrics, jax.Array], active: jax.Array) -> Work:
    """`work` after one pass of the lanes, each with its `sums`, of which `active` bool [L] trained someone."""
    kept = trees.select(active, sums, trees.zeros_like(sums))
    metrics, examples = trees.add((work.metrics, work.examples), jax.tree.map(lambda x: x.sum(0), kept))
    return Work(metrics, examples, work.steps + jnp.sum(active), work.slots + active.size, work.clients)
