"""SCAFFOLD.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML
2020 (arXiv 1910.06378), algorithm 1: each local step follows g_i(y) - c_i + c (equation 3). The control variate c_i
estimates the client's gradient and c the mean gradient, so that clients no longer drift to their own optima.

A client's new c_i (equation 4) is, by option I, its gradient at the server's model, and by option II the mean gradient
of its local steps. For plain SGD that is the paper's c_i - c + (x - y) / (K rate); it also holds for other optimisers.
Option I spends the share `look` of the local steps on that gradient, with the model frozen: the paper's pass over all
examples is local.epochs = E + 1 and look = 1 / (E + 1). A client of one local step in a round never moves. The server
keeps c = sum p_i c_i, with p_i a client's share of all weight (the paper's 1 / N), whoever takes part, so that a fixed
point minimises sum p_i f_i for any weights.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.algorithm import Algorithm, ClientState, LocalResult, PyTree, ServerState, nothing_frozen
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.uplink.contract import Aggregate, Update


@dataclass(frozen=True)
class Scaffold:
    """Settings of SCAFFOLD."""

    option: Literal["I", "II"] = "II"
    look: float = 0.5  # option I: share of the local steps that only compute the gradient
    server_rate: float = 1.0  # the server moves by this times the mean update

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError unless the option is I or II and 0 < look < 1."""
        if self.option not in ("I", "II") or (is_concrete(self.look) and not 0 < self.look < 1):
            raise UserError(f"algorithm.option={self.option}, look={self.look}: choose I or II, and a share in 0..1")
        algorithm = FedAvg(self.server_rate).build()

        def server(server: ServerState, aggregate: Aggregate) -> ServerState:
            moved = algorithm.server(server, aggregate)
            return moved._replace(extra=trees.add(server.extra, trees.scale(aggregate.share, aggregate.auxiliary)))

        return algorithm._replace(
            init=lambda model: ServerState(model, trees.zeros_like(model.params)),
            init_client=lambda model: trees.zeros_like(model.params),
            gradient=_gradient,
            finish=_finish,
            update_client_state=_update_state,
            server=server,
            frozen=self._frozen if self.option == "I" else nothing_frozen,
            frozen_share=self.look if self.option == "I" else 0.0,
            accumulate=self._accumulate,
        )

    def _frozen(self, params: PyTree, progress: jax.Array) -> PyTree:
        return jax.tree.map(lambda _: progress < self.look, params)

    def _accumulate(self, grads: PyTree, examples: jax.Array, progress: jax.Array) -> PyTree:
        weight = jnp.where(progress < self.look, examples, 0.0)
        return (grads, jnp.float32(1)) if self.option == "II" else (trees.scale(weight, grads), weight)


def _gradient(grads: PyTree, params: PyTree, start: PyTree, server: ServerState, client: ClientState) -> PyTree:
    return trees.add(grads, trees.join(trees.subtract(server.extra, client), trees.zeros_like(params)))


def _finish(server: ServerState, client: ClientState, result: LocalResult) -> Update:
    gradients, count = result.accumulated
    control = trees.scale(1.0 / count, trees.only(gradients, client))
    # c must change by p_i times the change of c_i, so the factor on the update's weight is divided out.
    change = trees.scale(1.0 / jnp.maximum(result.times, 1e-6), trees.subtract(control, client))
    return Update(trees.subtract(result.model, server.model), change, result.examples)


def _update_state(server: ServerState, client: ClientState, result: LocalResult, sent: Update) -> ClientState:
    # Uses what was sent, with its factor, so that the server's c stays the weighted sum of the c_i.
    return trees.add(client, trees.scale(jnp.maximum(result.times, 1e-6), sent.auxiliary))
