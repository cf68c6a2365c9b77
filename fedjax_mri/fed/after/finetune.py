"""Fine-tuning at evaluation: how good is the server's model after some epochs on a test client's own training data?

The baseline of an oracle for each client. It is one round of the engine in which the owners of test clients train and
nothing travels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Batch, ClientData, Test
from fedjax_mri.fed.algorithms.localonly import LocalOnly, alone
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.evaluate import Evaluation
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, check_simulation, initial_state, place_state
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import Uplink
from fedjax_mri.fed.uplink.reductions.mean import mean
from fedjax_mri.fed.uplink.weigh import uniformly
from fedjax_mri.tasks.task import Model


@dataclass(frozen=True)
class FineTune:
    """Settings of fine-tuning, after the last round."""

    epochs: int = 0  # over the training examples of each test client's owner; 0: none

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise UserError(f"finetune.epochs={self.epochs}: must be 1 or more, or 0 for none")


def evaluate_finetuned(
    sim: Simulation, plan: Plan, tests: Mapping[str, Test], epochs: int, state: State, root: jax.Array
) -> dict[str, Evaluation]:
    """Test sets of which each client has an owner, as "NAME/fine-tuned", by models fine-tuned for `epochs`."""
    tests = {name: test for name, test in tests.items() if np.all(test.owner >= 0)}
    if not tests:
        return {}
    owners = np.unique(np.concatenate([test.owner for test in tests.values()]))
    tuned = finetuned_state(sim, plan, owners, epochs, state, root)
    owned = {
        f"{name}/fine-tuned": test._replace(owner=positions_among(owners, test.owner)) for name, test in tests.items()
    }
    return evaluate.build(alone(sim.task), plan, owned)(tuned)


def positions_among(owners: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Where each of `owner` int32 [M] stands among the sorted `owners`, int32 [M]."""
    return np.searchsorted(owners, owner).astype(np.int32)


def finetuned_state(
    sim: Simulation, plan: Plan, owners: np.ndarray, epochs: int, state: State, root: jax.Array
) -> State:
    """A state of the `owners` int32 [O] alone, each with the server's model after `epochs` on its own examples.

    The learning rate is the one that training began with.
    """
    sim = simulation_of(sim, owners, epochs)
    check_simulation(sim, plan)
    fresh = initial_state(sim, plan, root)
    clients = fresh.clients._replace(model=starting_models(state, owners))
    fresh = place_state(plan, fresh._replace(round=jnp.asarray(np.asarray(state.round)), clients=clients))
    return segments.build(sim, plan, root, 1)(fresh, 1)[0]


def simulation_of(sim: Simulation, owners: np.ndarray, epochs: int) -> Simulation:
    """`sim` with the `owners` alone, each on its own for `epochs` a round."""
    begun = sim.local.schedule(jnp.int32(0))
    return Simulation(
        task=alone(sim.task),
        algorithm=LocalOnly().build(),
        uplink=Uplink(uniformly, chain(), mean()),
        sampler=Everyone().build(Population(sim.data.sizes[owners])),
        local=sim.local._replace(epochs=epochs, schedule=lambda round: begun),
        data=data_of(sim.data, owners),
    )


def starting_models(state: State, clients: np.ndarray) -> Model:
    """What each of `clients` int32 [K] would start a round from, [K, ...]: the server's model, and its own part."""
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[clients], state.clients.model)
    shared = jax.tree.map(np.asarray, state.server.model)
    return trees.join(jax.tree.map(lambda leaf: np.repeat(leaf[None], len(clients), 0), shared), own)


def data_of(data: ClientData, clients: np.ndarray) -> ClientData:
    """The data of some `clients` int32 [K], as clients 0..K-1."""
    sizes, table = data.sizes[clients], np.asarray(clients, np.int32)

    def shift(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
        return data.shift(batch, jnp.asarray(table)[client], indices, round)

    if data.fetch is not None:
        fetch = data.fetch
        return ClientData(sizes, None, data.read, lambda client: fetch(int(table[client])), shift)

    def read(store: Any, client: jax.Array, indices: jax.Array) -> Batch:
        return data.read(store, jnp.asarray(table)[client], indices)

    return ClientData(sizes, data.store, read, shift=shift)
