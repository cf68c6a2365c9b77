"""A round of a federated run.

draw a cohort -> deal its clients out to lanes -> on each device, all lanes step until their queues are empty
-> merge over devices -> reduce -> server
"""

import jax
import jax.numpy as jnp

from fedjax_mri.core import keys, trees
from fedjax_mri.fed.algorithm import ServerState, traffic
from fedjax_mri.fed.client.local import step_counts
from fedjax_mri.fed.engine.lanes import RoundInputs, RoundStats, train_on_devices
from fedjax_mri.fed.engine.placement import Placed
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.schedule import Queues, longest_first
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation, State
from fedjax_mri.fed.sampling import Cohort
from fedjax_mri.fed.uplink.contract import PyTree, ServerRound, UplinkState
from fedjax_mri.fed.world.conditions import Spent, Turnout


def one_round(
    sim: Simulation, plan: Plan, state: State, root: jax.Array, placed: Placed, cohort: Cohort
) -> tuple[State, RoundStats]:
    """A cohort trains, the server takes what the uplink makes of its updates, and each client keeps its own part."""
    rows = trees.take(state.clients, cohort.client)
    after, trained, rows, stats = cohort_round(sim, plan, state._replace(clients=()), root, placed, cohort, rows)
    return after._replace(clients=trees.put(state.clients, trained, rows)), stats


def cohort_round(
    sim: Simulation, plan: Plan, state: State, root: jax.Array, placed: Placed, cohort: Cohort, rows: ClientRow
) -> tuple[State, jax.Array, ClientRow, RoundStats]:
    """A round in which the rows of the cohort's clients, [K, ...], are all that is there of the clients.

    Gives the state without clients, who trained (int32 [K], N for none), their rows, and the round's statistics.
    """
    inputs, queues, spent = prepare_round(sim, plan, cohort, state, root, placed, rows)
    updates, rows, stats = train_on_devices(sim, plan)(inputs, queues.start, queues.stop, placed)
    server, uplink = server_step(sim, state, root, placed.size, updates)
    moves = (stats.clients > 0) | (sim.uplink.empty_round == "release")
    server, uplink = trees.select(moves, (server, uplink), (state.server, state.uplink))
    trained = jnp.where(inputs.steps > 0, cohort.client, len(sim.data.sizes))
    return State(state.round + 1, server, uplink, ()), trained, rows, stats._replace(spent=spent)


def server_step(
    sim: Simulation, state: State, root: jax.Array, sizes: jax.Array, updates: PyTree
) -> tuple[ServerState, UplinkState]:
    """What the server becomes by a cohort's `updates`, as the reduction has accumulated them."""
    total = jnp.sum(sim.uplink.weigh(sizes.astype(jnp.float32)))
    key = jax.random.fold_in(root, state.round)
    at = ServerRound(state.round, keys.round_purpose(key, keys.RoundPurpose.REDUCE), total, sim.sampler.rate * total)
    aggregate, reduced = sim.uplink.reduce.finish(updates, state.uplink.reduce, at)
    at = at._replace(key=keys.purpose(key, keys.Purpose.SERVER))
    aggregate, staged = sim.uplink.stages.server(aggregate, state.uplink.stages, at)
    return sim.algorithm.server(state.server, aggregate), UplinkState(staged, reduced)


def prepare_round(
    sim: Simulation, plan: Plan, cohort: Cohort, state: State, root: jax.Array, placed: Placed, rows: ClientRow
) -> tuple[RoundInputs, Queues, Spent]:
    """What the lanes read in this round, their queues, and what the round costs clients and network.

    Absent clients, those without examples and those whose update is lost have no steps.
    """
    size = placed.size[cohort.client]
    full_steps = jnp.where(cohort.present, step_counts(sim.local, size), 0)
    turnout = cohort_turnout(sim, cohort, full_steps, state, root)
    queues = longest_first(turnout.steps, plan.devices * plan.lanes, placed.home[cohort.client], plan.devices)
    inputs = RoundInputs(
        key=root,
        round=state.round,
        server=state.server,
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
    return inputs, queues, turnout.spent


def cohort_turnout(sim: Simulation, cohort: Cohort, full_steps: jax.Array, state: State, root: jax.Array) -> Turnout:
    """What becomes of the `full_steps` int32 [K] of a cohort under the simulation's conditions."""
    key = keys.purpose(jax.random.fold_in(root, state.round), keys.Purpose.CONDITIONS)
    each = traffic(sim.algorithm, sim.uplink, state.server.model)
    return sim.conditions(key, state.round, cohort, full_steps, each)
