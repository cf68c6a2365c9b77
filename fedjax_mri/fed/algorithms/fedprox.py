"""FedProx.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks, MLSys 2020 (arXiv
1812.06127), algorithm 2: each client minimises h_k(w) = F_k(w) + mu / 2 |w - w^t|^2 (equation 2), by local
steps, so that heterogeneous clients, and those that do not finish, stay near the server's model w^t. The term leaves
out parameters that never travel. With `mu` = 0 it is FedAvg.
"""

from dataclasses import dataclass

from fedjax_mri.core import trees
from fedjax_mri.core.checks import not_negative
from fedjax_mri.fed.algorithm import Algorithm, ClientState, PyTree, ServerState
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import proximal_gradient


@dataclass(frozen=True)
class FedProx:
    """Settings of FedProx."""

    mu: float = 0.01  # strength of the pull towards the server's model
    server_rate: float = 1.0  # the server moves by this times the mean update

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError if `mu` is negative or the rate is not positive."""
        not_negative("algorithm.mu", self.mu)
        return FedAvg(self.server_rate).build()._replace(gradient=self._gradient)

    def _gradient(
        self, grads: PyTree, params: PyTree, start: PyTree, server: ServerState, client: ClientState
    ) -> PyTree:
        return trees.add(grads, proximal_gradient(self.mu, params, server.model.params))
