"""Evaluates the server's model after some epochs of fine-tuning on each test client's own training data.

Fine-tuning is one round of the engine in which the owners of test clients train and nothing travels. It is a baseline
for personalised algorithms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import fields, trees
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

    epochs: int = 0  # over the training examples of each test client's owner; 0: no fine-tuning

    def __post_init__(self) -> None:
        fields.check(self, "finetune.")
        if self.epochs < 0:
            raise UserError(f"finetune.epochs={self.epochs}: must be 1 or more, or 0 for none")


def evaluate_finetuned(
    sim: Simulation, plan: Plan, tests: Mapping[str, Test], epochs: int, state: State, root: jax.Array
) -> dict[str, Evaluation]:
    """Returns the results of models fine-tuned for `epochs`, by the name "NAME/fine-tuned".

    Test sets in which a client has no owner among the training clients are left out.
    """
    tests = {name: test for name, test in tests.items() if np.all(test.owner >= 0)}
    if not tests:
        return {}
    owners = np.unique(np.concatenate([test.owner for test in tests.values()]))
    tuned = finetuned_state(sim, plan, owners, epochs, state, root)
    renumbered = {
        f"{name}/fine-tuned": test._replace(owner=np.searchsorted(owners, test.owner).astype(np.int32))
        for name, test in tests.items()
    }
    return evaluate.build(alone(sim.task), plan, renumbered)(tuned)


def finetuned_state(
    sim: Simulation, plan: Plan, owners: np.ndarray, epochs: int, state: State, root: jax.Array
) -> State:
    """Returns a state of the `owners` int32 [O] alone, each with the server's model fine-tuned on its own examples.

    The learning rate is that of the first round.
    """
    sim = simulation_of(sim, owners, epochs)
    check_simulation(sim, plan)
    fresh = initial_state(sim, plan, root)
    clients = fresh.clients._replace(model=starting_models(state, owners))
    fresh = place_state(plan, fresh._replace(round=jnp.asarray(np.asarray(state.round)), clients=clients))
    return segments.build(sim, plan, root, 1)(fresh, 1)[0]


def simulation_of(sim: Simulation, owners: np.ndarray, epochs: int) -> Simulation:
    """Returns `sim` with the `owners` int32 [O] as clients, each of which trains alone for `epochs` a round."""
    rate = sim.local.schedule(jnp.int32(0))
    return Simulation(
        task=alone(sim.task),
        algorithm=LocalOnly().build(),
        uplink=Uplink(uniformly, chain(), mean()),
        sampler=Everyone().build(Population(sim.data.sizes[owners])),
        local=sim.local._replace(epochs=epochs, schedule=lambda round: rate, max_steps=None),
        data=data_of(sim.data, owners),
    )


def starting_models(state: State, clients: np.ndarray) -> Model:
    """Returns the models [K, ...] that `clients` int32 [K] would start a round from: the shared part and their own."""
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[clients], state.clients.model)
    shared = jax.tree.map(np.asarray, state.server.model)
    return trees.join(jax.tree.map(lambda leaf: np.repeat(leaf[None], len(clients), 0), shared), own)


def data_of(data: ClientData, clients: np.ndarray) -> ClientData:
    """Returns the data of `clients` int32 [K], renumbered 0..K-1."""
    table = np.asarray(clients, np.int32)

    def before(client: jax.Array) -> jax.Array:
        return jnp.asarray(table)[client]

    def shift(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
        return data.shift(batch, before(client), indices, round)

    renumbered = data._replace(
        sizes=data.sizes[clients],
        shift=shift,
        pick=lambda indices, client, size: data.pick(indices, before(client), size),
        patients=None if data.patients is None else data.patients[clients],
    )
    if data.fetch is not None:
        fetch = data.fetch
        return renumbered._replace(store=None, fetch=lambda client: fetch(int(table[client])))
    return renumbered._replace(read=lambda store, client, indices: data.read(store, before(client), indices))
