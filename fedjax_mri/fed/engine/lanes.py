"""Local training of a cohort on lanes. Each device has several lanes, and each lane a queue of clients.

A lane holds the model and optimiser of one client. When its client is done, the lane adds the update to the device's
accumulator and takes the next client of its queue, so that lanes are idle only at the end of a round.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import keys, trees
from fedjax_mri.fed.algorithm import LocalResult, ServerState, client_update
from fedjax_mri.fed.client.local import ClientStart, init_optimizers, local_step, nothing_accumulated, read_batch
from fedjax_mri.fed.engine import placement
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import AXIS, Plan
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation
from fedjax_mri.fed.uplink.contract import Notes, Sender, Update, UplinkState
from fedjax_mri.fed.world.conditions import RoundCost
from fedjax_mri.tasks.task import Metrics, Model

PyTree = Any
StepSums = tuple[Metrics, jax.Array]  # a step's metrics, and the examples it trained on


class RoundInputs(NamedTuple):
    """What all lanes read during a round. The cohort has K places; lanes change none of this."""

    key: jax.Array  # root key of the run
    round: jax.Array  # int32 []
    server: ServerState
    uplink: UplinkState  # of the server's side
    client: jax.Array  # int32 [K]
    size: jax.Array  # int32 [K], examples
    times: jax.Array  # float32 [K], how often a client's weight counts
    staleness: jax.Array  # int32 [K], server steps since the broadcast a client starts from
    full_steps: jax.Array  # int32 [K], local steps that all its epochs take
    steps: jax.Array  # int32 [K], local steps to do
    rows: ClientRow  # [K, ...]
    order: jax.Array  # int32 [K], places in the order of the queues
    rate: jax.Array  # float32 [], learning rate


class Lane(NamedTuple):
    """One client in training; as arrays over a device's lanes, each leaf has a leading axis [L]."""

    position: jax.Array  # int32 [], of its client in the order of the queues
    step: jax.Array  # int32 [], local steps done for this client
    model: Model
    optimizers: tuple[Any, ...]
    accumulated: PyTree  # what the algorithm has summed over this client's steps


class FinishedClient(NamedTuple):
    """What becomes of a lane's client when it is done."""

    sent: Update
    row: ClientRow  # what stays with it
    notes: Notes  # of the uplink's stages
    counts: jax.Array  # bool [], False if its update was not finite and a stage has made it so


class RoundStats(NamedTuple):
    """Statistics of a round, or of a device's share of it."""

    metrics: Metrics  # sums over the local steps of the clients that count, see `FinishedClient`
    examples: jax.Array  # float32 [], examples trained on, each counted as often as it was used
    steps: jax.Array  # int32 [], local steps of clients, without passes of idle lanes
    slots: jax.Array  # int32 [], lane passes, idle ones too: steps / slots is the useful share
    clients: jax.Array  # int32 [], clients trained
    cost: RoundCost  # simulated time and traffic
    notes: Notes  # notes of the stages of the uplink, summed over clients


class DeviceTotals(NamedTuple):
    """What a device has accumulated so far in a round."""

    updates: PyTree  # the reduction's accumulator
    rows: ClientRow  # [K, ...], zeros except at the places that this device trained
    stats: RoundStats


def train_on_devices(sim: Simulation, plan: Plan) -> Callable[..., DeviceTotals]:
    """Returns a function that calls `run_lanes` on each device for its own queues, and merges the totals."""
    replicated = jax.sharding.PartitionSpec()
    sim = sim._replace(data=placement.with_placed_reader(sim.data))

    def single_device(inputs: RoundInputs, start: jax.Array, stop: jax.Array, placed: PlacedData) -> DeviceTotals:
        return run_lanes(sim, inputs, start, stop, placement.device_view(placed, plan))

    if plan.devices == 1:  # no collectives here: each device may hold a different run
        return single_device

    def on_each_device(inputs: RoundInputs, start: jax.Array, stop: jax.Array, placed: PlacedData) -> DeviceTotals:
        first = jax.lax.axis_index(AXIS) * plan.lanes
        start, stop = (jax.lax.dynamic_slice_in_dim(bound, first, plan.lanes) for bound in (start, stop))
        updates, rows, stats = single_device(inputs, start, stop, placed)
        slots = jax.lax.pmax(stats.slots, AXIS)  # every device waits for the slowest
        rows, stats = jax.lax.psum((rows, stats._replace(slots=slots)), AXIS)
        return DeviceTotals(sim.uplink.reduce.merge(updates, AXIS), rows, stats)

    # With check_vma, gradients of the replicated start would be summed over devices before a client's clip. Without
    # it each device keeps its own gradients, and the only sums over devices are those above.
    specs = (replicated, replicated, replicated, placement.partition_specs(plan))
    return jax.shard_map(on_each_device, mesh=plan.mesh(), in_specs=specs, out_specs=replicated, check_vma=False)


def run_lanes(sim: Simulation, inputs: RoundInputs, start: jax.Array, stop: jax.Array, store: PyTree) -> DeviceTotals:
    """Trains the clients of all lanes of a device, one local step in every lane at a time.

    The queue of lane l has the positions start[l]..stop[l] - 1; both are int32 [L]. Returns the device's totals.
    """
    step = jax.jit(partial(lane_step, sim), inline=True)  # traced once, for its shapes and for the loop
    lanes = each_lane(partial(start_lane, sim, inputs), start)
    totals = empty_totals(sim, inputs, jax.eval_shape(step, inputs, store, trees.take(lanes, jnp.int32(0))))
    metrics = trees.repeat(totals.stats.metrics, start.size)  # sums over the steps of each lane's client

    def body(carry: tuple[Lane, Metrics, DeviceTotals]) -> tuple[Lane, Metrics, DeviceTotals]:
        lanes, metrics, totals = carry
        active = lanes.position < stop
        # An idle lane goes on computing with its last client; the result is never used.
        lanes, (step_metrics, examples) = each_lane(partial(step, inputs, store), lanes)
        metrics = trees.add(metrics, step_metrics)
        totals = totals._replace(stats=add_step_stats(totals.stats, examples, active))
        done = active & (lanes.step >= inputs.steps[cohort_place(inputs, lanes.position)])
        with jax.named_scope("ended_clients"):  # as with the loop's name below
            return jax.lax.cond(
                done.any(),
                lambda: finish_and_refill(sim, inputs, lanes, metrics, totals, done),
                lambda: (lanes, metrics, totals),
            )

    with jax.named_scope("lanes"):  # by this name `compile/kernels.py` knows the loop in the compiled program
        return jax.lax.while_loop(lambda carry: jnp.any(carry[0].position < stop), body, (lanes, metrics, totals))[2]


def each_lane(work: Callable[[Any], Any], lanes: PyTree) -> Any:
    """Returns `work` of each lane, whose arrays have a leading axis [L].

    A single lane is not batched: a batched product is another one for the compiler, which copies weights for it.
    """
    if len(jax.tree.leaves(lanes)[0]) > 1:
        return jax.vmap(work)(lanes)
    result = work(jax.tree.map(lambda leaf: leaf[0], lanes))
    return jax.tree.map(lambda leaf: leaf[None], result)


def empty_totals(sim: Simulation, inputs: RoundInputs, shapes: tuple[Lane, StepSums]) -> DeviceTotals:
    """Returns the totals of a device before its first step; `shapes` are those of the results of `lane_step`."""
    lane, sums = shapes
    client = jax.eval_shape(lambda lane: finish_client(sim, inputs, lane), lane)
    metrics, examples, notes = trees.zeros_like((*sums, client.notes))
    cost, zero = RoundCost(*(jnp.float32(0) for _ in RoundCost._fields)), jnp.int32(0)
    stats = RoundStats(metrics, examples, zero, zero, zero, cost, notes)
    empty = sim.uplink.reduce.zero(client.sent, inputs.client.size)
    updates = sim.uplink.reduce.begin(empty, inputs.key, inputs.round)
    return DeviceTotals(updates, trees.zeros_like(inputs.rows), stats)


def cohort_place(inputs: RoundInputs, position: jax.Array) -> jax.Array:
    """Returns the cohort place of the client at a position in the order of the queues; past the end, the last place."""
    return inputs.order[jnp.minimum(position, inputs.order.size - 1)]


def start_lane(sim: Simulation, inputs: RoundInputs, position: jax.Array) -> Lane:
    """Returns a lane before the first step of the client at a position in the order of the queues."""
    model = client_start(sim, inputs, position).model
    optimizers = init_optimizers(sim.task, sim.local, model, inputs.rate)
    return Lane(position, jnp.zeros_like(position), model, optimizers, nothing_accumulated(sim.algorithm, model.params))


def client_start(sim: Simulation, inputs: RoundInputs, position: jax.Array) -> ClientStart:
    """Returns what the client at a position starts from: its model, the broadcast and its state."""
    place = cohort_place(inputs, position)
    row = trees.take(inputs.rows, place)
    server = sim.algorithm.broadcast(inputs.server, inputs.staleness[place])
    return ClientStart(trees.join(server.model, row.model), server, row.state)


def lane_step(sim: Simulation, inputs: RoundInputs, store: PyTree, lane: Lane) -> tuple[Lane, StepSums]:
    """Returns the lane after one local step of its client, and the step's metrics and number of examples."""
    place = cohort_place(inputs, lane.position)
    client, size = inputs.client[place], inputs.size[place]
    key = keys.client(inputs.key, inputs.round, client)
    batch = read_batch(sim.data, sim.local, store, client, size, inputs.round, lane.step, key)
    key = jax.random.fold_in(keys.purpose(key, keys.Purpose.STEP), lane.step)
    start, progress = client_start(sim, inputs, lane.position), lane.step / inputs.full_steps[place]
    after = local_step(
        sim.task, sim.algorithm, sim.local, start, lane.model, lane.optimizers, inputs.rate, batch, progress, key
    )
    accumulated = trees.add(lane.accumulated, after.accumulated)
    lane = Lane(lane.position, lane.step + 1, after.model, after.optimizers, accumulated)
    return lane, (after.metrics, batch["weight"].sum())


def finish_and_refill(
    sim: Simulation, inputs: RoundInputs, lanes: Lane, metrics: Metrics, totals: DeviceTotals, done: jax.Array
) -> tuple[Lane, Metrics, DeviceTotals]:
    """Returns lanes, their metrics [L, ...] and totals after the lanes that are `done`, bool [L], have changed clients.

    Each adds the update and the metrics of its client to the totals and starts the next client of its queue.
    """
    done = done | (done.size == 1)  # a single lane is: as a constant it spares the compiler a choice in each leaf
    clients = each_lane(partial(finish_client, sim, inputs), lanes)
    place = cohort_place(inputs, lanes.position)
    accumulated = sim.uplink.reduce.add(totals.updates, clients.sent, jnp.where(done, place, -1))
    rows = trees.put(totals.rows, jnp.where(done, place, inputs.client.size), clients.row)
    fresh = each_lane(partial(start_lane, sim, inputs), lanes.position + 1)
    none, stats = trees.zeros_like(metrics), totals.stats
    stats = stats._replace(
        metrics=add_rows(stats.metrics, trees.select(done & clients.counts, metrics, none)),
        clients=stats.clients + jnp.sum(done).astype(jnp.int32),
        notes=add_rows(stats.notes, trees.select(done, clients.notes, trees.zeros_like(clients.notes))),
    )
    return trees.select(done, fresh, lanes), trees.select(done, none, metrics), DeviceTotals(accumulated, rows, stats)


def finish_client(sim: Simulation, inputs: RoundInputs, lane: Lane) -> FinishedClient:
    """Returns what becomes of a lane's client when it is done.

    A client whose update was not finite, and was made so by a stage such as `clip`, keeps the model and the state that
    it had before, and its metrics do not count.
    """
    place = cohort_place(inputs, lane.position)
    client, row, staleness = inputs.client[place], trees.take(inputs.rows, place), inputs.staleness[place]
    shared, rest = trees.split(sim.task.shared(lane.model), lane.model)
    examples, times = inputs.size[place].astype(jnp.float32), inputs.times[place]
    result = LocalResult(shared, lane.step, examples, inputs.rate, staleness, times, lane.accumulated)
    server = sim.algorithm.broadcast(inputs.server, staleness)
    update = client_update(sim.algorithm, inputs.server, server, row.state, result)
    update = update._replace(weight=sim.uplink.weigh(update.weight) * times)
    key = keys.purpose(keys.client(inputs.key, inputs.round, client), keys.Purpose.UPLINK)
    sender = Sender(client, inputs.round, key, examples, times, inputs.uplink)
    sent, uplink, notes = sim.uplink.stages.client(update, row.uplink, sender)
    state = sim.algorithm.update_client_state(server, row.state, result, sent)
    counts = jnp.isfinite(trees.norm(update.delta)) | ~jnp.isfinite(trees.norm(sent.delta))
    model, state = trees.select(counts, (rest, state), (row.model, row.state))
    row = row._replace(model=model, state=state, uplink=uplink, rounds=row.rounds + 1)
    return FinishedClient(sent, row, notes, counts)


def add_step_stats(stats: RoundStats, examples: jax.Array, active: jax.Array) -> RoundStats:
    """Returns `stats` after one pass of the lanes, of which those `active`, bool [L], trained on `examples` [L]."""
    return stats._replace(
        examples=stats.examples + jnp.sum(jnp.where(active, examples, 0.0)),
        steps=stats.steps + jnp.sum(active),
        slots=stats.slots + active.size,
    )


def add_rows(total: PyTree, rows: PyTree) -> PyTree:
    """Returns `total` plus the sum of `rows` [L, ...]."""
    return jax.tree.map(lambda whole, each: whole + each.sum(0), total, rows)
