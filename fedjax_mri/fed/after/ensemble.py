"""Evaluates clients' models as an ensemble, and distils the ensemble into one model.

Guha, Talwalkar, Smith: One-Shot Federated Learning, 2019 (arXiv 1902.11175): the ensemble predicts the mean of what its
members predict, and a student learns its predictions on images without labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_mri.core import fields, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Batch, ClientData, Source, Test
from fedjax_mri.data.pooled import pool
from fedjax_mri.fed.algorithm import Algorithm, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.evaluate import Evaluation
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import ClientRow, Simulation, State, check_simulation, initial_state
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import Uplink, UplinkState
from fedjax_mri.fed.uplink.reductions.mean import mean as weighted_mean
from fedjax_mri.fed.uplink.weigh import uniformly
from fedjax_mri.tasks.task import Carry, Metrics, Model, Params, Phase, Task, everything, mean


@dataclass(frozen=True)
class Distil:
    """Settings of distillation, after the last round."""

    source: Source | None = None  # of whose training examples the images are used and not the labels
    epochs: int = 0  # over those images; 0: no distillation
    batch: int = 32
    learning_rate: float = 1e-3  # Adam's

    def __post_init__(self) -> None:
        fields.check(self, "distil.")
        if self.epochs < 0 or self.batch < 1 or not self.learning_rate > 0:
            raise UserError(
                f"distil.epochs={self.epochs}, distil.batch={self.batch}, distil.learning_rate={self.learning_rate}: "
                "must be 0 or more, 1 or more, and positive"
            )
        if self.epochs and self.source is None:
            raise UserError(f"distil.epochs={self.epochs}: give distil.source, whose images the server may see")


def ensemble(task: Task) -> Task:
    """Returns `task` for an ensemble: a model whose leaves have a leading axis [K], one row for each member.

    It predicts the mean of the members' predictions. Raises UserError if the task cannot evaluate predictions.
    """
    tally = task.tally
    if tally is None:
        raise UserError("an ensemble needs a task that can judge predictions, as classification can")

    def predict(params: Params, carry: Carry, batch: Batch) -> Any:
        predictions = jax.lax.map(lambda model: task.predict(model.params, model.carry, batch), Model(params, carry))
        return jax.tree.map(lambda x: x.mean(0), predictions)

    def evaluate_mean(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return tally(predict(params, carry, batch), batch)

    return task._replace(predict=predict, evaluate=evaluate_mean, shared=everything, unseen_client_model=None)


def client_models(algorithm: Algorithm, state: State) -> Model:
    """Returns the models [K, ...] of the K clients that have trained, as NumPy arrays."""
    assert algorithm.member is not None
    trained = np.flatnonzero(np.asarray(state.clients.rounds))
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[trained], state.clients)
    return trees.join(algorithm.member(rows.state), rows.model)


def evaluate_ensemble(sim: Simulation, plan: Plan, tests: Mapping[str, Test], state: State) -> dict[str, Evaluation]:
    """Returns the results of the ensemble of all clients' models on each test set, by the name "NAME/ensemble"."""
    models, renamed = client_models(sim.algorithm, state), {f"{name}/ensemble": test for name, test in tests.items()}
    clients = ClientRow(trees.split(everything(models), models)[1], (), (), jnp.ones(1, jnp.int32))
    ensemble_state = State(state.round, plan.replicate(ServerState(models, ())), UplinkState((), ()), clients)
    return evaluate.build(ensemble(sim.task), plan, renamed)(ensemble_state)


def distil(sim: Simulation, plan: Plan, settings: Distil, images: ClientData, state: State, root: jax.Array
              ) -> State:  # fmt: skip
    """Returns `state` with a student of the ensemble as the server's model.

    The student is initialised from the key `root` and trained on `images` with the ensemble's predictions as labels.
    """
    test = Test(images, np.full(len(images.sizes), -1, np.int32))
    (teacher,) = evaluate_ensemble(sim, plan, {"": test}, state).values()
    distillation = distillation_simulation(sim.task, settings, with_soft_labels(images, teacher.kept["predictions"]))
    plan = replace(plan, data="replicated", clients="device")
    check_simulation(distillation, plan)
    after, *_ = segments.build(distillation, plan, root, 1)(initial_state(distillation, plan, root), 1)
    student = trees.only(after.server.model, state.server.model)
    return state._replace(server=state.server._replace(model=student))


def with_soft_labels(images: ClientData, predictions: np.ndarray) -> ClientData:
    """Returns all `images` as the data of one client, with `predictions` [n, ...] as their labels."""
    pooled = pool(images)

    def read(store: Any, client: jax.Array, indices: jax.Array) -> Batch:
        return {**pooled.read(store[0], client, indices), "label": store[1][indices]}

    return ClientData(pooled.sizes, (pooled.store, predictions), read)


def distillation_simulation(task: Task, settings: Distil, data: ClientData) -> Simulation:
    """Returns the simulation of one client that learns soft labels by cross entropy."""

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        log_probabilities = jnp.log(jnp.maximum(task.predict(params, carry, batch), 1e-30))
        return mean(-jnp.sum(batch["label"] * log_probabilities, -1), batch["weight"]), (carry, ())

    rate = jnp.float32(settings.learning_rate)
    return Simulation(
        task=task._replace(phases=(Phase(loss, everything),), shared=everything, unseen_client_model=None),
        algorithm=FedAvg().build(),
        uplink=Uplink(uniformly, chain(), weighted_mean()),
        sampler=Everyone().build(Population(data.sizes)),
        local=Local(settings.epochs, settings.batch, optax.adam, lambda round: rate),
        data=data,
    )
