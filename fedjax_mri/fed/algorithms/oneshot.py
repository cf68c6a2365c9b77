"""One-shot federated learning.

Guha, Talwalkar, Smith: One-Shot Federated Learning, 2019 (arXiv 1902.11175): clients train alone, once, and send their
models once; the server predicts with the ensemble of them, and distils it into one model on unlabelled images.

Every client starts from the model that all began with, in whichever round it is called. The server's model is the mean
of what it has been sent so far; the ensemble is judged, and `Experiment.distil` puts the distilled model in the mean's
place, after the last round: see fed/after/ensemble.py. One round with a cohort of everyone is the paper's.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.algorithm import Algorithm, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.uplink.contract import Aggregate


class Memory(NamedTuple):
    """What the server keeps beside the mean."""

    start: Any  # the model that every client starts from
    weight: jax.Array  # float32 [], of the updates in the mean


@dataclass(frozen=True)
class OneShot:
    """There is nothing to set."""

    def build(self) -> Algorithm:
        """Nothing can be wrong."""
        return (
            FedAvg()
            .build()
            ._replace(
                init=lambda model: ServerState(model, Memory(model, jnp.float32(0))),
                init_client=lambda model: model,
                remember=lambda server, client, result, sent: result.model,
                server=_server,
                broadcast=lambda server, staleness: ServerState(server.extra.start, ()),
                member=lambda client: client,
            )
        )


def _server(server: ServerState, aggregate: Aggregate) -> ServerState:
    weight = server.extra.weight + aggregate.weight
    arrived = trees.add(server.extra.start, aggregate.delta)
    step = trees.scale(aggregate.weight / weight, trees.subtract(arrived, server.model))
    return ServerState(trees.add(server.model, step), server.extra._replace(weight=weight))
