"""Any optax optimiser on the server, and FedAvgM.

The mean update is used as a negative gradient, as in algorithm 1 of Reddi et al. 2021 (arXiv 2003.00295).
FedAvgM, the server's momentum: Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification, 2019 (arXiv 1909.06335), m <- momentum m + delta, x <- x + rate m.
Running statistics, which change without a gradient, are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax

from fedjax_mri.core import trees
from fedjax_mri.core.checks import fraction, positive
from fedjax_mri.core.imports import imported
from fedjax_mri.fed.algorithm import Algorithm, PyTree, ServerState, latest_model
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.uplink.contract import Aggregate

Step = Callable[
    [PyTree, PyTree, PyTree], tuple[PyTree, PyTree]
]  # (mean change of params, state, params) -> change, state


@dataclass(frozen=True)
class ServerOptimizer:
    """Settings of an optimiser on the server; SGD at rate 1 is federated averaging."""

    optimizer: str = "optax.sgd"  # any importable function: learning rate -> optax transformation
    rate: float = 1.0

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError if there is no such optimiser or the rate is not positive."""
        positive("algorithm.rate", self.rate)
        return with_server_optimizer(imported(self.optimizer, "algorithm.optimizer")(self.rate))


@dataclass(frozen=True)
class FedAvgM:
    """Settings of federated averaging with momentum on the server."""

    rate: float = 1.0
    momentum: float = 0.9

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError unless the rate is positive and 0 <= momentum < 1."""
        positive("algorithm.rate", self.rate)
        fraction("algorithm.momentum", self.momentum)
        return with_server_optimizer(optax.sgd(self.rate, self.momentum))


def with_server_optimizer(optimizer: optax.GradientTransformation) -> Algorithm:
    """Returns federated averaging with an optax optimiser on the server."""

    def step(delta: PyTree, memory: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            return optimizer.update(trees.scale(-1.0, delta), memory, params)

    return with_server_step(optimizer.init, step)


def with_server_step(init: Callable[[PyTree], PyTree], step: Step) -> Algorithm:
    """Returns federated averaging whose server moves by `step`, with a first optimiser state from `init(params)`."""

    def server(server: ServerState, aggregate: Aggregate) -> ServerState:
        change, memory = step(aggregate.delta.params, server.extra, server.model.params)
        return ServerState(trees.add(server.model, aggregate.delta._replace(params=change)), memory)

    begin = lambda model: ServerState(model, init(model.params))  # noqa: E731
    return FedAvg().build()._replace(init=begin, server=server, broadcast=latest_model)
