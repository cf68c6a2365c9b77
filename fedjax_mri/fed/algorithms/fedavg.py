"""Federated averaging.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas: Communication-Efficient Learning of Deep Networks from Decentralized
Data, AISTATS 2017 (arXiv 1602.05629), algorithm 1: each client of the cohort takes local steps from the server's model,
and the server moves to the average of their models, weighted by examples. `server_rate` = 1 is the paper's.
"""

from dataclasses import dataclass

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.fed.algorithm import Algorithm, ClientState, LocalResult, PyTree, ServerState
from fedjax_mri.fed.uplink.contract import Aggregate, Update


@dataclass(frozen=True)
class FedAvg:
    """Settings of federated averaging."""

    server_rate: float = 1.0  # the server moves by this times the mean update

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError if the rate is not a positive number."""
        positive("algorithm.server_rate", self.server_rate)
        return Algorithm(_init, lambda model: (), _gradient, _finish, self._server)

    def _server(self, server: ServerState, aggregate: Aggregate) -> ServerState:
        moved = trees.add(server.model, trees.scale(self.server_rate, aggregate.delta))
        return server._replace(model=moved)


def _init(model: PyTree) -> ServerState:
    return ServerState(model, ())


def _gradient(grads: PyTree, params: PyTree, start: PyTree, server: ServerState, client: ClientState) -> PyTree:
    return grads


def _finish(server: ServerState, client: ClientState, result: LocalResult) -> Update:
    return Update(trees.subtract(result.model, server.model), (), result.examples)
