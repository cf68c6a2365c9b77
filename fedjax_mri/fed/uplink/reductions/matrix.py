"""Reductions that need every single update: the cohort's updates as rows of a matrix, and a rule that combines them."""

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
    """The updates of a cohort; places without an update hold zeros."""

    delta: PyTree  # [K, ...]
    aside: PyTree  # [K, ...]
    weight: jax.Array  # float32 [K]
    sent: jax.Array  # float32 [K], 1 where there is an update and 0 elsewhere


class Rule(NamedTuple):
    """A rule that combines rows into one delta."""

    name: str
    combine: Callable[[Rows, State, ServerRound], tuple[PyTree, State]]  # -> (delta, state)
    init: Callable[[Update], State] = no_state
    admits: Callable[[Facts], None] = admits_all
    # the same arguments -> the share of each row in the delta, float32 [K], 0 where it was left out; None: it has none,
    # as in a median of coordinates
    shares: Callable[[Rows, State, ServerRound], jax.Array] | None = None


def matrix(rule: Rule) -> Reduce:
    """Returns the reduction that collects all rows, sets rows that are not finite to zero, and applies `rule`.

    Each device holds all rows, K times the bytes of one update. `aside` is reduced by the weighted mean.
    """

    def zero(sent: Update, places: int) -> Rows:
        delta, aside = trees.repeat(trees.zeros_like((sent.delta, sent.aside)), places)
        zeros = jnp.zeros(places, jnp.float32)
        return Rows(delta, aside, zeros, zeros)

    def add(rows: Rows, updates: Update, places: jax.Array) -> Rows:
        count = rows.weight.size
        new_rows = Rows(updates.delta, updates.aside, updates.weight, jnp.ones(places.shape, jnp.float32))
        return trees.put(rows, jnp.where(places < 0, count, places), new_rows)

    def finish(rows: Rows, state: State, at: ServerRound) -> tuple[Aggregate, State]:
        rows = rows._replace(delta=finite_rows(rows.delta))
        shares = () if rule.shares is None else rule.shares(rows, state, at)
        delta, state = rule.combine(rows, state, at)
        weight = rows.weight.sum()
        weights = rows.weight / jnp.maximum(weight, 1e-12)
        aside = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), rows.aside)
        share = weight / jnp.maximum(at.total_weight, 1e-12)
        return Aggregate(delta, aside, weight, rows.sent.sum(), share, shares), state

    shares = rule.shares is not None
    return Reduce(rule.name, zero, add, finish, init=rule.init, admits=rule.admits, shares=shares)


def finite_rows(rows: PyTree) -> PyTree:
    """Returns `rows` [K, ...] with zeros in each row that holds a value that is not finite."""
    if not jax.tree.leaves(rows):  # clients share nothing
        return rows
    finite = [jnp.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in jax.tree.leaves(rows)]
    return trees.select(jnp.stack(finite).all(0), rows, trees.zeros_like(rows))
