"""One-shot federated learning.

Guha, Talwalkar, Smith: One-Shot Federated Learning, 2019 (arXiv 1902.11175): clients train alone, once, and send their
models once; the server predicts with the ensemble of them, and distils it into one model on unlabelled images.

Every client starts from the initial model, in whichever round it is drawn. The server's model is the mean of all models
sent so far. After the last round the ensemble is evaluated, and `Experiment.distil` replaces the mean by the distilled
model: see fed/after/ensemble.py. The paper has one round with all clients.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.algorithm import Algorithm, PyTree, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.uplink.contract import Aggregate


class Memory(NamedTuple):
    """What the server keeps besides the mean of the models."""

    start: PyTree  # the model that every client starts from
    weight: jax.Array  # float32 [], sum of the weights of the updates in the mean


@dataclass(frozen=True)
class OneShot:
    """One-shot federated learning, which has no settings."""

    def build(self) -> Algorithm:
        """Returns the algorithm."""
        return (
            FedAvg()
            .build()
            ._replace(
                init=lambda model: ServerState(model, Memory(model, jnp.float32(0))),
                init_client=lambda model: model,
                update_client_state=lambda server, client, result, sent: result.model,
                server=_server,
                broadcast=lambda server, staleness: ServerState(server.extra.start, ()),
                member=lambda client: client,
                statistics=_statistics,
            )
        )


def _server(server: ServerState, aggregate: Aggregate) -> ServerState:
    weight = server.extra.weight + aggregate.weight
    cohort_mean = trees.add(server.extra.start, aggregate.delta)
    step = trees.scale(aggregate.weight / weight, trees.subtract(cohort_mean, server.model))
    return ServerState(trees.add(server.model, step), server.extra._replace(weight=weight))


def _statistics(server: ServerState, aggregate: Aggregate) -> PyTree:
    share = aggregate.weight / (server.extra.weight + aggregate.weight)
    return trees.add(server.model.carry, trees.scale(share, aggregate.delta.carry))
