"""FedNova.

Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization,
NeurIPS 2020 (arXiv 2007.07481): clients that take more local steps have more influence, so that federated averaging
minimises another weighted sum than intended. Each client therefore sends its change divided by |a_i|_1, the total
weight of its steps' gradients in it, and the server moves by tau_eff = sum p_i |a_i|_1 times their mean.

For plain SGD a_i has a one for each step. With momentum rho the last step counts 1, the one before 1 + rho, and so on.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.checks import fraction
from fedjax_mri.fed.algorithm import Algorithm, ClientState, LocalResult, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.uplink.contract import Aggregate, Update


@dataclass(frozen=True)
class FedNova:
    """Settings of FedNova."""

    momentum: float = 0.0  # of the clients' optimiser
    server_rate: float = 1.0  # the server moves by this times tau_eff times the mean

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError unless 0 <= momentum < 1 and the rate is positive."""
        fraction("algorithm.momentum", self.momentum)
        algorithm = FedAvg(self.server_rate).build()

        def server(server: ServerState, aggregate: Aggregate) -> ServerState:
            change = trees.scale(aggregate.auxiliary, aggregate.delta)
            return algorithm.server(server, aggregate._replace(delta=change))

        return algorithm._replace(finish=self._finish, server=server)

    def _finish(self, server: ServerState, client: ClientState, result: LocalResult) -> Update:
        delta, total = trees.subtract(result.model, server.model), total_gradient_weight(result.steps, self.momentum)
        return Update(trees.scale(1.0 / total, delta), total, result.examples)


def total_gradient_weight(steps: jax.Array, momentum: float) -> jax.Array:
    """Returns |a|_1, float32 []: the total weight of the gradients of `steps` int32 [] local steps."""
    count = steps.astype(jnp.float32)
    return (count - momentum * (1.0 - momentum**count) / (1.0 - momentum)) / (1.0 - momentum)
