"""Reductions that need every single update: the cohort's updates as rows of a matrix, and a rule that combines them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    PyTree,
    Reduce,
    RoundContext,
    SimulationParts,
    State,
    Update,
    always_compatible,
    no_state,
    refuse_auxiliary,
)
from fedjax_mri.fed.uplink.vectors import Vectors, dot, mean, vectors_of


class Rows(NamedTuple):
    """The updates of a cohort; places without an update hold zeros."""

    delta: PyTree  # [K, ...]
    auxiliary: PyTree  # [K, ...], what the algorithm sends besides
    weight: jax.Array  # float32 [K]
    sent: jax.Array  # float32 [K], 1 where there is an update and 0 elsewhere


class Rule(NamedTuple):
    """A rule that combines the updates of a cohort into one: the sum by `weigh`, or what `combine` makes of each value.

    If it has both, the weights only say which share of the result each update has.
    """

    name: str
    # -> (weights of the vectors in their sum, float32 [M], state); 0 where one is absent
    weigh: Callable[[Vectors, State, RoundContext], tuple[jax.Array, State]] | None = None
    combine: Callable[[Vectors, State, RoundContext], tuple[PyTree, State]] | None = None  # -> (delta, state)
    faulty: int = 0  # f, clients that may send anything
    min_updates: int = 1  # the fewest updates with which it withstands them
    init: Callable[[Update], State] = no_state
    check_compatible: Callable[[SimulationParts], None] = always_compatible
    needs_client_ids: bool = False  # whether it must know who sent each update: all take part, nothing comes before


class Preaggregator(NamedTuple):
    """A change of the vectors of a cohort before a rule combines them."""

    name: str
    change: Callable[[Vectors, jax.Array], Vectors]  # (vectors, key) -> vectors
    faulty: int = 0
    places: Callable[[int], int] = lambda places: places  # how many vectors come out of so many


def matrix(rule: Rule, before: Sequence[Preaggregator] = ()) -> Reduce:
    """Returns the reduction that collects all rows, changes them by what comes `before`, and applies `rule`.

    Each device holds all rows, K times the bytes of one update. An absent client is no row: it has no vote. A row that
    is not finite, or whose norm is above 1e18, is one of zeros: it is among the faulty ones. Where fewer updates come
    than the rule needs, the model and the rule's state stay as they are. Weights do not count in what a rule does.
    Statistics such as BatchNorm's are combined as parameters are. `auxiliary` is reduced by the weighted mean, which a
    single client can move anywhere: `check_compatible` refuses algorithms that send something there.
    """
    check_faulty(rule, before)

    def combine(vectors: Vectors, state: State, at: RoundContext) -> tuple[PyTree, PyTree, State]:
        for number, part in enumerate(before):
            vectors = part.change(vectors, jax.random.fold_in(at.key, number))
        delta, shares, after = apply(rule, vectors, state, at)
        enough = vectors.present.sum() >= max(rule.min_updates, 1)
        delta, shares = trees.select(enough, (delta, shares), trees.zeros_like((delta, shares)))
        return delta, shares, trees.select(enough, after, state)

    def finish(rows: Rows, state: State, at: RoundContext) -> tuple[Aggregate, State]:
        delta, shares, after = combine(vectors_of(rows.delta, rows.sent > 0), state, at)
        weight = rows.weight.sum()
        weights = rows.weight / jnp.maximum(weight, 1e-12)
        auxiliary = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), rows.auxiliary)
        share = weight / jnp.maximum(at.total_weight, 1e-12)
        return Aggregate(delta, auxiliary, weight, rows.sent.sum(), share, shares), after

    return Reduce(
        rule.name,
        no_rows,
        put_rows,
        finish,
        init=rule.init,
        check_compatible=partial(check_compatible, rule, before),
        reports_shares=rule.weigh is not None,
        rule=rule,
        combine=combine,
    )


def no_rows(sent: Update, cohort_size: int) -> Rows:
    """Returns the rows of a cohort of so many places before any update has come."""
    delta, auxiliary = trees.repeat(trees.zeros_like((sent.delta, sent.auxiliary)), cohort_size)
    zeros = jnp.zeros(cohort_size, jnp.float32)
    return Rows(delta, auxiliary, zeros, zeros)


def put_rows(rows: Rows, updates: Update, places: jax.Array) -> Rows:
    """Returns the rows with updates [L, ...] put at their places, int32 [L]; those of negative places are left out."""
    count = rows.weight.size
    new_rows = Rows(updates.delta, updates.auxiliary, updates.weight, jnp.ones(places.shape, jnp.float32))
    return trees.put(rows, jnp.where(places < 0, count, places), new_rows)


def apply(rule: Rule, vectors: Vectors, state: State, at: RoundContext) -> tuple[PyTree, PyTree, State]:
    """Returns the delta that a rule makes of vectors, the share of each row in it if it weighs them, and its state."""
    weights, after = (None, state) if rule.weigh is None else rule.weigh(vectors, state, at)
    shares = () if weights is None else dot(weights, vectors.mix)[:-1]
    if rule.combine is None:
        assert weights is not None
        return mean(vectors, weights), shares, after
    delta, after = rule.combine(vectors, state, at)
    return delta, shares, after


def check_compatible(rule: Rule, before: Sequence[Preaggregator], parts: SimulationParts) -> None:
    """Raises UserError where the rule cannot work on what clients send, or defends only a part of it."""
    check_cohort_size(rule, before, parts.sampler.cohort_size())
    if rule.needs_client_ids and (before or parts.sampler.law != "everyone"):
        raise UserError(
            f"uplink.reduce {rule.name}: must know whose each update is, in every round; choose --fed.sampling "
            "everyone, and no uplink.before"
        )
    refuse_auxiliary(parts, f"uplink.reduce {rule.name}", "which no rule defends")
    rule.check_compatible(parts)


def check_faulty(rule: Rule, before: Sequence[Preaggregator]) -> None:
    """Raises UserError on a negative number of faulty clients."""
    numbers = {f"before {part.name}": part.faulty for part in before} | {f"reduce {rule.name}": rule.faulty}
    for name, faulty in numbers.items():
        if faulty < 0:
            raise UserError(f"uplink.{name}: faulty={faulty}: must be 0 or more clients")


def check_cohort_size(rule: Rule, before: Sequence[Preaggregator], cohort_size: int) -> None:
    """Raises UserError if a cohort of so many places is too small for the clients that may be faulty."""
    count = cohort_size
    for part in before:
        if 2 * part.faulty >= count:
            raise UserError(
                f"uplink.before {part.name}: faulty={part.faulty} needs more than {2 * part.faulty} updates, a cohort "
                f"gives it {count}; lower it, or sample more clients"
            )
        count = part.places(count)
    if count < rule.min_updates:
        raise UserError(
            f"uplink.reduce {rule.name}: faulty={rule.faulty} needs {rule.min_updates} updates or more, a cohort gives "
            f"it {count}; lower it, or sample more clients"
        )
