"""A round of a federated run.

The clients of a cohort are dealt out to lanes. On each device all lanes take local steps until their queues are empty.
The accumulated updates are merged over devices, the reduction and the stages make one aggregate of them, and the
server takes its step. The cohort is drawn before the round begins.
"""

import jax
import jax.numpy as jnp

from fedjax_mri.core import keys, trees
from fedjax_mri.fed.algorithm import ServerState, server_update, traffic
from fedjax_mri.fed.client.local import Observed, step_counts
from fedjax_mri.fed.engine.lanes import RoundInputs, RoundStats, train_on_devices
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.schedule import Queues, longest_first
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation, State
from fedjax_mri.fed.sampling import Cohort
from fedjax_mri.fed.uplink.contract import Aggregate, Notes, PyTree, RoundContext, UplinkState
from fedjax_mri.fed.world.conditions import RoundCost, Turnout

LEFT_OUT = 1e-6  # an update with at most this share was left out


def one_round(
    sim: Simulation, plan: Plan, state: State, root: jax.Array, placed: PlacedData, cohort: Cohort
) -> tuple[State, RoundStats]:
    """Returns the state after one round of `cohort`, and the round's statistics.

    The cohort trains, the server moves by the aggregate of its updates, and each client's row is written back.
    """
    rows = trees.take(state.clients, cohort.client)
    after, trained, rows, stats = cohort_round(sim, plan, state._replace(clients=()), root, placed, cohort, rows)
    return after._replace(clients=trees.put(state.clients, trained, rows)), stats


def cohort_round(
    sim: Simulation, plan: Plan, state: State, root: jax.Array, placed: PlacedData, cohort: Cohort, rows: ClientRow
) -> tuple[State, jax.Array, ClientRow, RoundStats]:
    """Returns the result of a round whose `state` has no clients, but the cohort's `rows` [K, ...] beside it.

    The result is the state without clients, the clients that trained (int32 [K], N where a place did not train), their
    new rows [K, ...], and the round's statistics.
    """
    inputs, queues, cost = prepare_round(sim, plan, cohort, state, root, placed, rows)
    updates, rows, stats = train_on_devices(sim, plan)(inputs, queues.start, queues.stop, placed)
    metrics, audit_sums = stats.metrics if isinstance(stats.metrics, Observed) else (stats.metrics, ())
    aggregate, uplink = aggregate_updates(sim, state, root, placed.size, cohort.client, updates, audit_sums)
    server, uplink = move_server(sim, state, aggregate, uplink, stats.clients)
    came, shares = inputs.steps > 0, aggregate.rows
    if sim.uplink.reduce.reports_shares:
        rows = rows._replace(left_out=rows.left_out + (came & (shares <= LEFT_OUT)).astype(jnp.int32))
    notes = {**stats.notes, **attack_notes(sim, cohort.client, came, shares)}
    trained = jnp.where(came, cohort.client, len(sim.data.sizes))
    stats = stats._replace(metrics=metrics, cost=cost, notes=notes)
    return State(state.round + 1, server, uplink, ()), trained, rows, stats


def attack_notes(sim: Simulation, client: jax.Array, came: jax.Array, shares: PyTree) -> Notes:
    """Returns how many attackers sent an update, how many the rule kept, and the sum of their shares.

    client: int32 [K], came: bool [K], whether its update came; shares: float32 [K] if the rule tells them.
    """
    if sim.attacking is None:
        return {}
    attacking = sim.attacking[client] & came
    sent = {"attack/sent": attacking.sum().astype(jnp.float32)}
    if not sim.uplink.reduce.reports_shares:
        return sent
    kept = jnp.where(attacking, shares, 0.0)
    return {**sent, "attack/kept": jnp.sum(kept > LEFT_OUT).astype(jnp.float32), "attack/share": kept.sum()}


def move_server(
    sim: Simulation, state: State, aggregate: Aggregate, uplink: UplinkState, clients: jax.Array
) -> tuple[ServerState, UplinkState]:
    """Returns the server and the state of the uplink after a round of so many `clients` int32 [] with an update.

    `aggregate` and `uplink` are what `aggregate_updates` gives. Both that are returned stay as they are if nobody sent
    anything, unless an empty round releases noise.
    """
    server = server_update(sim.algorithm, state.server, aggregate)
    moves = (clients > 0) | (sim.uplink.empty_round == "release")
    moved: tuple[ServerState, UplinkState] = trees.select(moves, (server, uplink), (state.server, state.uplink))
    return moved


def aggregate_updates(
    sim: Simulation,
    state: State,
    root: jax.Array,
    sizes: jax.Array,
    client: jax.Array,
    updates: PyTree,
    audit_sums: PyTree = (),
) -> tuple[Aggregate, UplinkState]:
    """Returns what the uplink makes of a round's updates, and its state after it.

    `updates` is the reduction's accumulator, merged over devices; `sizes` int32 [N] are the examples of all clients;
    `client` int32 [K] are the cohort's; `audit_sums` is what an audit has seen of its local steps.
    """
    weights = sim.uplink.weigh(sizes.astype(jnp.float32))
    total, expected = jnp.sum(weights), sim.sampler.expected_weight(weights)
    key = jax.random.fold_in(root, state.round)
    reduce_key = keys.round_purpose(key, keys.RoundPurpose.REDUCE)
    at = RoundContext(state.round, reduce_key, total, expected, client, audit_sums)
    aggregate, reduced = sim.uplink.reduce.finish(updates, state.uplink.reduce, at)
    at = at._replace(key=keys.purpose(key, keys.Purpose.SERVER))
    aggregate, staged = sim.uplink.stages.server(aggregate, state.uplink.stages, at)
    return aggregate, UplinkState(staged, reduced)


def prepare_round(
    sim: Simulation, plan: Plan, cohort: Cohort, state: State, root: jax.Array, placed: PlacedData, rows: ClientRow
) -> tuple[RoundInputs, Queues, RoundCost]:
    """Returns the inputs of the lanes for this round, their queues, and the simulated cost of the round.

    Absent clients, clients without examples and clients whose update is lost take no steps.
    """
    size = placed.size[cohort.client]
    full_steps = jnp.where(cohort.present, step_counts(sim.local, size), 0)
    turnout = cohort_turnout(sim, cohort, full_steps, state, root)
    queues = longest_first(turnout.steps, plan.devices * plan.lanes, placed.home[cohort.client], plan.devices)
    inputs = RoundInputs(
        key=root,
        round=state.round,
        server=state.server,
        uplink=state.uplink,
        client=cohort.client,
        size=size,
        times=cohort.times * turnout.share,
        staleness=cohort.staleness,
        full_steps=full_steps,
        steps=turnout.steps,
        rows=rows,
        order=queues.order,
        rate=sim.local.schedule(state.round),
    )
    return inputs, queues, turnout.cost


def cohort_turnout(sim: Simulation, cohort: Cohort, full_steps: jax.Array, state: State, root: jax.Array) -> Turnout:
    """Returns how many of the `full_steps` int32 [K] a cohort takes under the simulation's conditions, and the cost."""
    key = keys.purpose(jax.random.fold_in(root, state.round), keys.Purpose.CONDITIONS)
    each = traffic(sim.algorithm, sim.uplink, state.server.model)
    return sim.conditions(key, state.round, cohort, full_steps, each)
