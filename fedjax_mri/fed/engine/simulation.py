"""The parts of a federated run, and its state between rounds."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import keys, programs, trees
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.data.contract import ClientData
from fedjax_mri.fed.algorithm import Algorithm, ServerState, sent_shapes
from fedjax_mri.fed.client.local import Local, step_counts
from fedjax_mri.fed.engine import placement
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.privacy.contract import Guarantee
from fedjax_mri.fed.sampling import Cohort, Sampler
from fedjax_mri.fed.uplink import contract
from fedjax_mri.fed.uplink.contract import SimulationParts, Uplink, UplinkState
from fedjax_mri.fed.world.conditions import Conditions, ideal
from fedjax_mri.tasks.task import Model, Task

PyTree = Any


class Simulation(NamedTuple):
    """All that defines a run, except its seed and its plan."""

    task: Task
    algorithm: Algorithm
    uplink: Uplink
    sampler: Sampler
    local: Local
    data: ClientData
    conditions: Conditions = ideal
    guarantee: Guarantee | None = None  # of privacy
    attacking: jax.Array | None = None  # bool [N], clients that attack; None: there is no attack


class ClientRow(NamedTuple):
    """What stays with a client between rounds; as arrays over clients, each leaf has a leading axis [N]."""

    model: Model  # the part of the model that does not travel
    state: PyTree  # of the algorithm
    uplink: PyTree  # of the stages of the uplink
    rounds: jax.Array  # int32 [], rounds it has trained in
    left_out: PyTree = ()  # int32 [], rounds whose rule took nothing of its update, if `Reduce.reports_shares`


class State(NamedTuple):
    """The state of a run between two rounds."""

    round: jax.Array  # int32 [], rounds done
    server: ServerState
    uplink: UplinkState
    clients: Any  # ClientRow [N, ...], as NumPy arrays if the plan holds it on the host; () inside `cohort_round`


def init_state(sim: Simulation, root: jax.Array) -> State:
    """Returns the state before the first round. Every client starts from the same model."""
    state = init_one_client(sim.task, sim.algorithm, sim.uplink, root)
    return state._replace(clients=trees.repeat(state.clients, len(sim.data.sizes)))


def init_one_client(task: Task, algorithm: Algorithm, uplink: Uplink, root: jax.Array) -> State:
    """Returns the state before the first round with the row of one client in place of N rows."""
    model = task.init(keys.purpose(root, keys.Purpose.INIT))
    shared, rest = trees.split(task.shared(model), model)
    sent = sent_shapes(algorithm, shared)
    row = ClientRow(rest, algorithm.init_client(shared), uplink.stages.init_client(sent), jnp.int32(0))
    row = row._replace(left_out=jnp.int32(0) if uplink.reduce.reports_shares else ())
    return State(jnp.int32(0), algorithm.init(shared), contract.init(uplink, sent), row)


def initial_state(sim: Simulation, plan: Plan, root: jax.Array) -> State:
    """Returns the state before the first round, placed as the plan says.

    Client state that is held on the host is never on a device for all clients at once.
    """
    make = partial(jax.jit, compiler_options=programs.xla_options())
    if plan.clients == "device":
        return place_state(plan, make(partial(init_state, sim))(root))
    state = make(partial(init_one_client, sim.task, sim.algorithm, sim.uplink))(root)
    clients = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], len(sim.data.sizes), 0), state.clients)
    return place_state(plan, state._replace(clients=clients))


def place_state(plan: Plan, state: State) -> State:
    """Returns a state placed as the plan says: client state on the host or the devices, the rest on the devices."""
    clients, rest = state.clients, state._replace(clients=())
    if plan.clients == "host":
        clients = jax.tree.map(lambda x: np.require(x, requirements=["O", "W"]), clients)
    else:
        clients = plan.replicate(clients)
    return plan.replicate(rest)._replace(clients=clients)


def state_shapes(sim: Simulation) -> State:
    """Returns a state of shapes and dtypes alone."""
    return jax.eval_shape(partial(init_state, sim), jax.random.key(0))


def draw_cohort(sim: Simulation, root: jax.Array, round: jax.Array) -> Cohort:
    """Returns the cohort of `round` int32 []."""
    return sim.sampler.draw(cohort_key(root, round), round)


def cohort_key(root: jax.Array, round: jax.Array) -> jax.Array:
    """Returns the key by which the cohort of `round` int32 [] is drawn."""
    return keys.purpose(jax.random.fold_in(root, round), keys.Purpose.SAMPLE)


def check_simulation(sim: Simulation, plan: Plan) -> None:
    """Raises UserError if parts of the simulation do not work together, or it does not fit into the plan's memory."""
    state = state_shapes(sim)
    check_parts(sim, state)
    cohort = jax.eval_shape(partial(draw_cohort, sim), jax.random.key(0), jnp.int32(0))
    placement.check_memory(sim.data, plan, cohort.client.size, state.clients)


def check_parts(sim: Simulation, state: State) -> None:
    """Raises UserError if parts of the simulation do not work together, such as a rule with too small a cohort.

    `state` is that of `state_shapes`.
    """
    sent = sent_shapes(sim.algorithm, state.server.model)
    check_staleness(sim)
    check_local_steps(sim)
    contract.check(SimulationParts(sim.algorithm, sim.task, sim.sampler, sim.local, sent, sim.uplink))


def check_staleness(sim: Simulation) -> None:
    """Raises UserError if clients may start from a broadcast that the algorithm no longer keeps."""
    latest, remembered = sim.sampler.max_staleness, sim.algorithm.max_staleness
    if latest > remembered:
        raise UserError(
            f"sampling.latest={latest}: the algorithm remembers {remembered} broadcasts before the newest; lower it, "
            "or choose an algorithm that remembers as many, such as --fed.algorithm fedbuff"
        )


def check_local_steps(sim: Simulation) -> None:
    """Raises UserError if no client takes so many local steps that it moves what travels of the model."""
    if not (is_concrete(sim.algorithm.frozen_share) and is_concrete(sim.data.sizes)):
        return
    most = int(np.max(step_counts(sim.local, sim.data.sizes)))
    if most and (most - 1) / most < sim.algorithm.frozen_share:
        raise UserError(
            f"algorithm: of {most} local step{'s' * (most > 1)} in a round, the most that a client takes, none would "
            f"move the shared model, which is frozen in the first {sim.algorithm.frozen_share:.3g} of them; give more "
            "--local.epochs, or a smaller --local.batch"
        )
