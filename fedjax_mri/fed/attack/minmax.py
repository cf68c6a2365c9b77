"""Min-max and min-sum: as far from the honest mean as can be without standing out among the honest updates.

Shejwalkar, Houmansadr: Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning, NDSS 2021, equations 7 and 8. The paper searches the largest gamma; here it is the root of a quadratic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, Attackers, AttackerView
from fedjax_mri.fed.uplink.contract import PyTree, State

Direction = Literal["std", "unit", "sign"]  # against which attackers move, of the honest updates


@dataclass(frozen=True)
class MinMax(Attackers):
    """Settings of attackers no further from any honest update than two honest ones are from each other."""

    direction: Direction = "std"

    def build(self, classes: int) -> Attack:
        """Returns the attack."""

        def reach(seen: AttackerView, towards: PyTree, gaps: PyTree, squares: jax.Array) -> jax.Array:
            limit = jnp.max(distances(squares, seen.honest))
            # |gamma p - g|^2 = limit: the smallest of the positive roots over all g is the largest gamma allowed
            along = products(gaps, jax.tree.map(lambda leaf: leaf[None], towards))[:, 0]
            along = along / jnp.maximum(trees.norm(towards), 1e-20)
            rest = jnp.maximum(along**2 - jnp.diag(squares) + limit, 0.0)
            return jnp.min(jnp.where(seen.honest > 0, along + jnp.sqrt(rest), jnp.inf))

        return Attack("minmax", craft=moved_by(self.direction, reach))


@dataclass(frozen=True)
class MinSum(Attackers):
    """Settings of attackers whose squared distances to the honest updates sum to no more than an honest one's."""

    direction: Direction = "std"

    def build(self, classes: int) -> Attack:
        """Returns the attack."""

        def reach(seen: AttackerView, towards: PyTree, gaps: PyTree, squares: jax.Array) -> jax.Array:
            spare = jnp.max(distances(squares, seen.honest).sum(1)) - jnp.trace(squares)
            return jnp.sqrt(jnp.maximum(spare, 0.0) / jnp.maximum(seen.honest.sum(), 1.0))

        return Attack("minsum", craft=moved_by(self.direction, reach))


def moved_by(
    direction: Direction, reach: Callable[[AttackerView, PyTree, PyTree, jax.Array], jax.Array]
) -> Callable[[AttackerView, State], tuple[PyTree, State]]:
    """Returns the attack by the honest mean, moved along `direction` by the length that `reach` gives.

    `reach` takes what the attackers see, the direction, the honest updates' differences from their mean [K, ...] and
    the inner products of these [K, K].
    """

    def craft(seen: AttackerView, state: State) -> tuple[PyTree, State]:
        towards, gaps = perturbation(direction, seen), honest.centred(seen)
        length = reach(seen, towards, gaps, products(gaps, gaps))
        return honest.moved(honest.mean(seen), finite(length / jnp.maximum(trees.norm(towards), 1e-20)), towards), state

    return craft


def perturbation(direction: Direction, seen: AttackerView) -> PyTree:
    """Returns the direction in which attackers leave the honest mean, equation 9."""
    if direction == "std":
        return trees.scale(-1.0, honest.std(seen))
    mean = honest.mean(seen)
    if direction == "sign":
        return jax.tree.map(lambda leaf: -jnp.sign(leaf), mean)
    return trees.scale(-1.0 / jnp.maximum(trees.norm(mean), 1e-20), mean)


def products(first: PyTree, second: PyTree) -> jax.Array:
    """Returns the inner products of rows, float32 [K, M], of trees [K, ...] and [M, ...]."""

    def of_leaf(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a.reshape(len(a), -1), b.reshape(len(b), -1).T, precision=jax.lax.Precision.HIGHEST)

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, first, second)), jnp.float32(0))


def distances(squares: jax.Array, honest: jax.Array) -> jax.Array:
    """Returns the squared distances between honest rows, 0 elsewhere, from their inner products [K, K]."""
    norms = jnp.diag(squares)
    found = jnp.maximum(norms[:, None] + norms[None] - 2 * squares, 0.0)
    return found * honest[:, None] * honest[None]


def finite(factor: jax.Array) -> jax.Array:
    """Returns the factor, 0 where it is not finite because nobody is honest."""
    return jnp.where(jnp.isfinite(factor), factor, 0.0)
