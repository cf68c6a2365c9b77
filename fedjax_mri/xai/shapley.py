"""Shapley values of an image's parts: what each adds to the score, averaged over the orders in which they appear."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import comb
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.baseline import Baseline, baseline
from fedjax_mri.xai.method import Method, Scores, target_logit
from fedjax_mri.xai.superpixels import grid, slic

Game = Callable[[jax.Array], jax.Array]  # which players take part, bool [M] -> value [B]
Solve = Callable[[Game, int, jax.Array], jax.Array]  # (game, M, key) -> what each player is worth [B, M]
Parts = Literal["slic", "grid"]
RIDGE = 1e-6


@dataclass(frozen=True)
class KernelSHAP:
    """Shapley values as weighted least squares over coalitions (Lundberg and Lee 2017)."""

    samples: int = 512  # coalitions
    parts: Parts = "slic"
    across: int = 7  # parts along a side
    baseline: Baseline = "blurred"  # what shows where a part is missing

    def build(self) -> Method:
        """Returns the method, which raises UserError if there is no such baseline.

        Building it raises UserError if there are no samples, fewer than 2 parts along a side, or no such parts.
        """
        _check("samples", self.samples, self.parts, self.across)
        return over_parts(self.parts, self.across, self.baseline, lambda *game: kernel_shap(self.samples, *game))


@dataclass(frozen=True)
class SampledShapley:
    """Shapley values as means over orders of appearance (Castro et al. 2009), each with its reverse."""

    orders: int = 8  # each takes as many evaluations as there are parts, and its reverse as many again
    parts: Parts = "slic"
    across: int = 7
    baseline: Baseline = "blurred"

    def build(self) -> Method:
        """Returns the method, which raises UserError if there is no such baseline.

        Building it raises UserError if there are no orders, fewer than 2 parts along a side, or no such parts.
        """
        _check("orders", self.orders, self.parts, self.across)
        return over_parts(self.parts, self.across, self.baseline, lambda *game: sampled_shapley(self.orders, *game))


def _check(field: str, count: int, parts: str, across: int) -> None:
    if count < 1 or across < 2:
        raise UserError(f"{field}={count}, across={across}: give 1 or more, and 2 parts or more along a side")
    if parts not in ("slic", "grid"):
        raise UserError(f"parts={parts}: give slic or grid")


def over_parts(parts: Parts, across: int, missing: Baseline, solve: Solve) -> Method:
    """Returns the method that values parts of an image by `solve`.

    Each pixel of a part has the part's value divided by its pixels, so that the map sums to what all parts add.
    """

    def method(scores: Scores, x: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
        hidden = baseline(missing, x, jax.random.fold_in(key, 1))
        labels = (slic if parts == "slic" else grid)(x, across)

        def value(present: jax.Array) -> jax.Array:
            return target_logit(scores, jnp.where(present[labels][..., None], x, hidden), target)

        worth = solve(value, across**2, key)
        size = jax.vmap(lambda one: jnp.zeros(across**2, x.dtype).at[one].add(jnp.ones((), x.dtype)))(labels)
        spread = worth / jnp.maximum(size, 1)
        return jax.vmap(lambda worth, labels: worth[labels])(spread, labels)

    return method


def sampled_shapley(orders: int, value: Game, players: int, key: jax.Array) -> jax.Array:
    """Returns the Shapley values [B, M], whose sum is value(all) - value(none).

    They are exact where at most two players interact.
    """

    def one_order(order: jax.Array) -> jax.Array:
        place = jnp.zeros(players, jnp.int32).at[order].set(jnp.arange(players, dtype=jnp.int32))
        values = jax.lax.map(lambda count: value(place < count), jnp.arange(players + 1, dtype=jnp.int32))
        return jnp.diff(values, axis=0)[place]

    keys = jax.random.split(key, orders)
    ways = jax.vmap(lambda key: jax.random.permutation(key, players))(keys)
    gains = jax.lax.map(one_order, jnp.concatenate([ways, ways[:, ::-1]]))
    return gains.mean(0).T


def kernel_shap(samples: int, value: Game, players: int, key: jax.Array) -> jax.Array:
    """Returns the Shapley values [B, M], whose sum is value(all) - value(none).

    They are exact where all coalitions fit into `samples`.
    """
    all_fit = players < 20 and 2**players - 2 <= samples
    coalitions, weights = _all_coalitions(players) if all_fit else _sampled_coalitions(samples, players, key)
    none = value(jnp.zeros(players, bool))
    total = value(jnp.ones(players, bool)) - none
    gains = jax.lax.map(value, coalitions) - none[None]
    return _least_squares(coalitions.astype(jnp.float32), weights, gains, total)


def _all_coalitions(players: int) -> tuple[jax.Array, jax.Array]:
    """Returns every coalition but none and all, with the Shapley kernel (theorem 2)."""
    coalitions = np.array(list(product([False, True], repeat=players)))[1:-1]
    sizes = coalitions.sum(1)
    weights = [(players - 1) / (comb(players, size) * size * (players - size)) for size in sizes.tolist()]
    return jnp.asarray(coalitions), jnp.asarray(weights, jnp.float32)


def _sampled_coalitions(samples: int, players: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns coalitions drawn by the kernel, each with its complement (Covert and Lee 2021)."""
    pick, order = jax.random.split(key)
    half = (samples + 1) // 2
    sizes = jnp.arange(1, players, dtype=jnp.float32)
    size = 1 + jax.random.categorical(pick, -jnp.log(sizes * (players - sizes)), shape=(half,))
    ways = jax.vmap(lambda key: jax.random.permutation(key, players))(jax.random.split(order, half))
    drawn = ways < size[:, None]
    return jnp.concatenate([drawn, ~drawn]), jnp.ones(2 * half, jnp.float32)


def _least_squares(coalitions: jax.Array, weights: jax.Array, gains: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the worths [B, M] that sum to `total` [B] and come nearest to gains [n, B] of coalitions [n, M]."""
    weighed = coalitions * (weights / weights.sum())[:, None]
    square = weighed.T @ coalitions + RIDGE * jnp.eye(coalitions.shape[1])
    right = jnp.concatenate([weighed.T @ gains, jnp.ones((coalitions.shape[1], 1))], 1)
    solved = jnp.linalg.solve(square, right)
    free, ones = solved[:, :-1], solved[:, -1:]
    return (free + ones * (total[None] - free.sum(0)[None]) / ones.sum()).T
