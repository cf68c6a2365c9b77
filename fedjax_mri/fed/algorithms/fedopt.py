"""FedAdagrad, FedAdam and FedYogi.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: Adaptive Federated Optimization, ICLR 2021 (arXiv
2003.00295), algorithm 2: the server uses the mean update delta as a gradient, m <- beta1 m + (1 - beta1) delta,
x <- x + rate m / (sqrt(v) + tau). v starts at tau^2, there is no bias correction, and the three differ in v alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.checks import fraction, positive
from fedjax_mri.fed.algorithm import Algorithm, PyTree
from fedjax_mri.fed.algorithms.serveroptimizer import with_server_step


@dataclass(frozen=True)
class FedAdagrad:
    """Settings of FedAdagrad: v <- v + delta^2."""

    rate: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3  # the smaller, the more adaptive

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError on values out of range."""
        return adaptive(self.rate, self.beta1, self.tau, lambda v, square: v + square)


@dataclass(frozen=True)
class FedAdam:
    """Settings of FedAdam: v <- beta2 v + (1 - beta2) delta^2."""

    rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3  # the smaller, the more adaptive

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError on values out of range."""
        fraction("algorithm.beta2", self.beta2)
        return adaptive(self.rate, self.beta1, self.tau, self.second)

    def second(self, v: jax.Array, square: jax.Array) -> jax.Array:
        """Returns the next v, where `square` is delta^2."""
        return self.beta2 * v + (1.0 - self.beta2) * square


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """Settings of FedYogi: v <- v - (1 - beta2) delta^2 sign(v - delta^2)."""

    def second(self, v: jax.Array, square: jax.Array) -> jax.Array:
        """Returns the next v, where `square` is delta^2."""
        return v - (1.0 - self.beta2) * square * jnp.sign(v - square)


def adaptive(rate: float, beta1: float, tau: float, second: Callable[[jax.Array, jax.Array], jax.Array]) -> Algorithm:
    """Returns algorithm 2 with the rule v <- second(v, delta^2). Raises UserError on values out of range."""
    positive("algorithm.rate", rate)
    fraction("algorithm.beta1", beta1)
    positive("algorithm.tau", tau)

    def init(params: PyTree) -> tuple[PyTree, PyTree]:
        return trees.zeros_like(params), jax.tree.map(lambda x: jnp.full(x.shape, tau**2, x.dtype), params)

    def step(delta: PyTree, moments: tuple[PyTree, PyTree], params: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        m = jax.tree.map(lambda m, d: beta1 * m + (1.0 - beta1) * d, moments[0], delta)
        v = jax.tree.map(lambda v, d: second(v, jnp.square(d)), moments[1], delta)
        return jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + tau), m, v), (m, v)

    return with_server_step(init, step)
