"""What an attacker sees of some hospitals' images: the change of the model that they send, as a run really sends it.

The round is the run's own: its local training, its stages of the uplink and its reduction. Whatever defends a run thus
defends it here. The attacker reads all that leaves the reduction and knows the model before it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.data.contract import ClientData
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithm import ServerState
from fedjax_mri.fed.engine import lanes, placement, rounds
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State
from fedjax_mri.fed.sampling.cohort import cohort_of
from fedjax_mri.fed.world.conditions import ideal
from fedjax_mri.tasks.task import Model, Params


class Seen(NamedTuple):
    """What the attacker knows."""

    start: Model  # that the hospitals were sent
    server: ServerState  # the broadcast
    change: Params  # of the parameters that travel, None at others: what the reduction gives
    rate: jax.Array  # learning rate
    examples: int  # images in the change
    steps: int  # local steps of a hospital


def victims(fields: dict[str, np.ndarray], clients: int, groups: int) -> ClientData:
    """Returns data of N `clients`, of which the first `groups` hold equal shares of the images in `fields` [n, ...]."""
    parts = np.split(np.arange(len(fields["label"])), groups)
    return resident(fields, [*parts, *[np.zeros(0, int)] * (clients - groups)])


def see(sim: Simulation, state: State, root: jax.Array, groups: int) -> Seen:
    """Returns what an attacker sees after a round in which the first `groups` clients of `sim` take part."""
    sim = sim._replace(conditions=ideal)
    cohort = cohort_of(jnp.arange(groups, dtype=jnp.int32))
    plan = Plan(devices=1, lanes=1, conv="xla").resolve()
    placed = plan.put(placement.all_examples(sim.data))

    @jax.jit
    def round_of(state: State, placed: placement.PlacedData) -> Params:
        rows = trees.take(state.clients, cohort.client)
        inputs, queues, _ = rounds.prepare_round(sim, plan, cohort, state, root, placed, rows)
        totals = lanes.train_on_devices(sim, plan)(inputs, queues.start, queues.stop, placed)
        aggregate, _ = rounds.aggregate_updates(sim, state, root, placed.size, totals.updates)
        return aggregate.delta.params

    row, zero = trees.take(state.clients, jnp.int32(0)), jnp.int32(0)
    server = sim.algorithm.broadcast(state.server, zero)
    steps = int(sim.local.batches(sim.local.epochs, sim.local.batch).steps(sim.data.sizes[0]))
    return Seen(
        start=trees.join(server.model, row.model),
        server=server,
        change=round_of(state, placed),
        rate=sim.local.schedule(state.round),
        examples=int(sim.data.sizes.sum()),
        steps=steps,
    )
