"""FedBuff.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered Asynchronous Aggregation, AISTATS
2022 (arXiv 2106.06639), algorithm 1: clients do not wait for each other. The server moves as soon as its buffer holds K
updates. An update that began tau server steps ago is scaled by s(tau) = (1 + tau)^-1/2.

A cohort is the K clients that fill the buffer; its `staleness` is their tau, bounded by `oldest`. The server keeps its
last models. A client starts from the model that was sent to it, and its update is relative to that. Tau 0 gives FedAvg.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.checks import not_negative
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithm import Algorithm, ClientState, LocalResult, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.uplink.contract import Aggregate, Update


@dataclass(frozen=True)
class FedBuff:
    """Settings of FedBuff."""

    power: float = 0.5  # an update with staleness tau is scaled by (1 + tau)^-power; 0: all alike
    oldest: int = 20  # server steps; older models are not kept, and a client that is later starts from the oldest
    server_rate: float = 1.0  # the server moves by this times the mean update

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError if a setting is negative."""
        not_negative("algorithm.power", self.power)
        if self.oldest < 0:
            raise UserError(f"algorithm.oldest={self.oldest}: must be 0 or more models")
        algorithm = FedAvg(self.server_rate).build()

        def finish(server: ServerState, client: ClientState, result: LocalResult) -> Update:
            update = algorithm.finish(server, client, result)
            factor = (1.0 + result.staleness.astype(jnp.float32)) ** -self.power
            return update._replace(delta=trees.scale(factor, update.delta))

        def server(server: ServerState, aggregate: Aggregate) -> ServerState:
            model = algorithm.server(server, aggregate).model
            models = jax.tree.map(lambda new, old: jnp.concatenate([new[None], old[:-1]]), model, server.extra)
            return ServerState(model, models)

        return algorithm._replace(
            init=lambda model: ServerState(model, trees.repeat(model, self.oldest + 1)),
            finish=finish,
            server=server,
            broadcast=self._broadcast,
            max_staleness=self.oldest,
        )

    def _broadcast(self, server: ServerState, staleness: jax.Array) -> ServerState:
        return ServerState(trees.take(server.extra, jnp.minimum(staleness, self.oldest)), ())
