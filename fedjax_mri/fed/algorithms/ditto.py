"""Ditto.

Li, Hu, Beirami, Smith: Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021 (arXiv 2012.04221),
algorithm 1: beside the model w that all share, learnt by federated averaging, each client keeps a personal one, which
minimises F_k(v) + lambda / 2 |v - w|^2. Both take the same local steps on the same batches.
Clients are evaluated with their personal models, a site that took no part with the shared one.
"""

from dataclasses import dataclass

import jax

from fedjax_mri.core import trees
from fedjax_mri.core.checks import not_negative
from fedjax_mri.fed.algorithm import Algorithm, ClientState, PyTree, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import proximal_gradient
from fedjax_mri.tasks.task import Batch, Carry, Loss, Model, Params, Phase, Task, predicting_with


@dataclass(frozen=True)
class Ditto:
    """Settings of Ditto."""

    strength: float = 0.1  # lambda; at 0 personal models are those of local training alone

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError if the strength is negative."""
        not_negative("algorithm.strength", self.strength)
        return FedAvg().build()._replace(task=doubled, gradient=self._gradient)

    def _gradient(
        self, grads: PyTree, params: PyTree, start: PyTree, server: ServerState, client: ClientState
    ) -> PyTree:
        pulled = proximal_gradient(self.strength, params["personal"], server.model.params["shared"])
        return {**grads, "personal": trees.add(grads["personal"], pulled)}


def doubled(task: Task) -> Task:
    """Returns `task` for a pair of models: the shared one travels, the personal one stays and is evaluated."""

    def shared(model: Model) -> PyTree:
        mask = task.shared(select(model, "shared"))
        return pair(mask, jax.tree.map(lambda _: False, mask))

    phases = tuple(map(train_both, task.phases))
    unseen_client_model = lambda model: pair(*[select(model, "shared")] * 2)  # noqa: E731
    init = lambda key: pair(*[task.init(key)] * 2)  # noqa: E731
    personal = predicting_with(task, lambda model: select(model, "personal"))
    return personal._replace(init=init, phases=phases, shared=shared, unseen_client_model=unseen_client_model)


def pair(shared: Model, personal: Model) -> Model:
    """Returns one model that consists of a shared and a personal one."""
    return Model(*({"shared": a, "personal": b} for a, b in zip(shared, personal)))


def select(model: Model, name: str) -> Model:
    """Returns the "shared" or the "personal" model of a pair."""
    return Model(model.params[name], model.carry[name])


def train_both(phase: Phase) -> Phase:
    """Returns the phase that trains both models of a pair separately, with the metrics of the personal one."""

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        shared_loss, (shared, _) = phase.loss(params["shared"], carry["shared"], batch, key)
        personal_loss, (personal, metrics) = phase.loss(params["personal"], carry["personal"], batch, key)
        return shared_loss + personal_loss, ({"shared": shared, "personal": personal}, metrics)

    def penalty(params: Params) -> jax.Array:
        assert phase.penalty is not None
        return phase.penalty(params["shared"]) + phase.penalty(params["personal"])

    trainable = lambda params: {name: phase.trainable(part) for name, part in params.items()}  # noqa: E731
    return Phase(loss, trainable, penalty if phase.penalty is not None else None)
