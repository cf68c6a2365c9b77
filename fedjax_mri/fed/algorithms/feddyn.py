"""FedDyn.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama: Federated Learning Based on Dynamic Regularization, ICLR 2021
(arXiv 2111.04263), algorithm 1: client k minimises L_k(w) - <g_k, w> + alpha / 2 |w - w^t|^2 and then keeps
g_k <- g_k - alpha (w_k - w^t), which is its gradient at w_k if the local training has converged. The server keeps h and
moves to the mean of the w_k minus h / alpha.

With p_k a client's share of all weight (the paper's 1 / m), h <- h - alpha sum p_k (w_k - w^t) over the cohort, so that
h = sum p_k g_k whoever takes part. At a fixed point h is 0 and g_k the gradient of L_k: the model minimises
sum p_k L_k, for any weights.
"""

from dataclasses import dataclass

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.fed.algorithm import Algorithm, ClientState, LocalResult, PyTree, ServerState, latest_model
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import proximal_gradient
from fedjax_mri.fed.uplink.contract import Aggregate, Update


@dataclass(frozen=True)
class FedDyn:
    """Settings of FedDyn."""

    alpha: float = 0.01  # strength of the regulariser

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError if `alpha` is not positive."""
        positive("algorithm.alpha", self.alpha)
        return (
            FedAvg()
            .build()
            ._replace(
                init=lambda model: ServerState(model, trees.zeros_like(model.params)),
                init_client=lambda model: trees.zeros_like(model.params),
                gradient=self._gradient,
                update_client_state=self._update_state,
                server=self._server,
                broadcast=latest_model,
            )
        )

    def _gradient(
        self, grads: PyTree, params: PyTree, start: PyTree, server: ServerState, client: ClientState
    ) -> PyTree:
        regularised = trees.add(grads, proximal_gradient(self.alpha, params, server.model.params))
        return trees.subtract(regularised, trees.join(client, trees.zeros_like(params)))

    def _update_state(self, server: ServerState, client: ClientState, result: LocalResult, sent: Update) -> ClientState:
        # Uses what was sent, clipped or compressed, with its weight in h, so that h stays the weighted sum of the g_k.
        return trees.subtract(client, trees.scale(self.alpha * result.times, sent.delta.params))

    def _server(self, server: ServerState, aggregate: Aggregate) -> ServerState:
        h = trees.subtract(server.extra, trees.scale(self.alpha * aggregate.share, aggregate.delta.params))
        mean = trees.add(server.model, aggregate.delta)
        return ServerState(mean._replace(params=trees.subtract(mean.params, trees.scale(1.0 / self.alpha, h))), h)
