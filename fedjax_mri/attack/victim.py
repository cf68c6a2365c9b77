"""What an attacker sees of some hospitals' images: the change of the model that they send, as a run really sends it.

The round is the run's own: its local training, its stages of the uplink and its reduction. Whatever defends a run thus
defends it here. The attacker reads all that leaves the reduction and knows the model before it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.data.contract import ClientData
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithm import ServerState
from fedjax_mri.fed.client.local import step_counts
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
    """Returns data of N `clients`, of which the first `groups` hold equal shares of the images in `fields` [n, ...].

    Each image is of another patient.
    """
    parts = np.split(np.arange(len(fields["label"])), groups)
    data = resident(fields, [*parts, *[np.zeros(0, int)] * (clients - groups)])
    return data._replace(patients=data.sizes)


def observer(sim: Simulation, state: State, root: jax.Array, groups: int) -> Callable[[ClientData], Seen]:
    """Returns what an attacker sees of `victims` after a round in which the first `groups` clients take part.

    The victims have as many images as those of `sim`. `state` is that before the round.
    """
    sim, zero = sim._replace(conditions=ideal), jnp.int32(0)
    cohort = cohort_of(jnp.arange(groups, dtype=jnp.int32))
    plan = Plan(devices=1, lanes=1, conv="xla").resolve()

    @jax.jit
    def round_of(state: State, placed: placement.PlacedData) -> Params:
        rows = trees.take(state.clients, cohort.client)
        inputs, queues, _ = rounds.prepare_round(sim, plan, cohort, state, root, placed, rows)
        totals = lanes.train_on_devices(sim, plan)(inputs, queues.start, queues.stop, placed)
        aggregate, _ = rounds.aggregate_updates(sim, state, root, placed.size, cohort.client, totals.updates)
        return aggregate.delta.params

    row = trees.take(state.clients, zero)
    server, size = sim.algorithm.broadcast(state.server, zero), sim.data.sizes
    start, rate = trees.join(server.model, row.model), sim.local.schedule(state.round)
    count, steps = int(size.sum()), int(step_counts(sim.local, size[:1])[0])
    return lambda data: Seen(
        start, server, round_of(state, plan.replicate(placement.all_examples(data))), rate, count, steps
    )
