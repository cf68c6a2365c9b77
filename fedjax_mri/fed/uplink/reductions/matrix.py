"""Reductions that need each update by itself: the cohort's updates as rows, and a rule on top."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    Facts,
    PyTree,
    Reduce,
    ServerRound,
    State,
    Update,
    admits_all,
    no_state,
)


class Rows(NamedTuple):
    """A cohort's updates; places of which nobody sent anything hold zeros."""

    delta: PyTree  # [K, ...]
    aside: PyTree  # [K, ...]
    weight: jax.Array  # float32 [K]
    sent: jax.Array  # float32 [K], 1 where an update came and 0 elsewhere


class Rule(NamedTuple):
    """How rows become one delta."""

    name: str
    combine: Callable[[Rows, State, ServerRound], tuple[PyTree, State]]  # -> (delta, what the server remembers)
    init: Callable[[Update], State] = no_state
    admits: Callable[[Facts], None] = admits_all


def matrix(rule: Rule) -> Reduce:
    """The reduction that gathers all rows, replaces those that are not finite by zeros, and applies `rule`.

    Each device holds all rows, K times the bytes of one update. What is sent aside is reduced by the weighted mean.
    """

    def zero(sent: Update, places: int) -> Rows:
        delta, aside = trees.repeat(trees.zeros_like((sent.delta, sent.aside)), places)
        none = jnp.zeros(places, jnp.float32)
        return Rows(delta, aside, none, none)

    def add(rows: Rows, updates: Update, places: jax.Array) -> Rows:
        count = rows.weight.size
        came = Rows(updates.delta, updates.aside, updates.weight, jnp.ones(places.shape, jnp.float32))
        return trees.put(rows, jnp.where(places < 0, count, places), came)

    def finish(rows: Rows, state: State, at: ServerRound) -> tuple[Aggregate, State]:
        rows = rows._replace(delta=finite_rows(rows.delta))
        delta, state = rule.combine(rows, state, at)
        weight = rows.weight.sum()
        share = rows.weight / jnp.maximum(weight, 1e-12)
        aside = jax.tree.map(lambda leaf: jnp.tensordot(share, leaf, 1), rows.aside)
        came = weight / jnp.maximum(at.total_weight, 1e-12)
        return Aggregate(delta, aside, weight, rows.sent.sum(), came), state

    return Reduce(rule.name, zero, add, finish, init=rule.init, admits=rule.admits)


def finite_rows(rows: PyTree) -> PyTree:
    """Rows [K, ...] of which each that holds a value that is not finite is zero throughout."""
    norms = jax.vmap(trees.norm)(rows)
    return trees.select(jnp.isfinite(norms), rows, trees.zeros_like(rows))
