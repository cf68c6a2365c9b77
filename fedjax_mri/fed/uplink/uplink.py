"""What happens to updates between client and server: a chain of stages that ends in one linear reduction."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError

PyTree = Any
StageState = PyTree


class Update(NamedTuple):
    """What one client sends."""

    delta: PyTree  # the change of what travels
    weight: jax.Array  # float32 [], share in the mean; `finish` puts the number of examples here


class Aggregate(NamedTuple):
    """What the server makes of a cohort's updates."""

    delta: PyTree  # their weighted mean; zeros when no client sent anything
    weight: jax.Array  # float32 [], sum of weights
    clients: jax.Array  # float32 [], how many sent something
    share: jax.Array  # float32 [], their sum of weights as a share of what all clients together would send


class Stage(NamedTuple):
    """One thing done to updates. A stage that needs nothing on a side passes what it was given."""

    role: Literal["weight", "clip"]
    init: Callable[[PyTree], StageState]
    init_client: Callable[[PyTree], StageState]
    client: Callable[[Update, StageState, jax.Array], tuple[Update, StageState]]  # last: key
    server: Callable[[Aggregate, StageState, jax.Array], tuple[Aggregate, StageState]]


class Reduce(NamedTuple):
    """A linear reduction: a running sum on each device, one sum over devices, then `finish`."""

    zero: Callable[[PyTree], PyTree]  # shapes of one delta -> empty sum
    add: Callable[[PyTree, Update, jax.Array], PyTree]  # (sum, updates [L, ...], sent bool [L]) -> sum
    finish: Callable[[PyTree, jax.Array], Aggregate]  # (sum over devices, weight of all clients there are) ->


class Uplink(NamedTuple):
    """Stages chained into one, with the reduction at the end."""

    init: Callable[[PyTree], StageState]
    init_client: Callable[[PyTree], StageState]
    client: Callable[[Update, StageState, jax.Array], tuple[Update, StageState]]
    reduce: Reduce
    server: Callable[[Aggregate, StageState, jax.Array], tuple[Aggregate, StageState]]


def chain(*stages: Stage, reduce: Reduce) -> Uplink:
    """Stages in the order in which updates pass them. Raises UserError when the order would break a guarantee."""
    roles = [stage.role for stage in stages]
    if "clip" in roles and "weight" in roles[roles.index("clip") :]:
        raise UserError("uplink: weighting after clipping undoes the clip's bound: put the weighting first")

    return Uplink(
        lambda delta: tuple(stage.init(delta) for stage in stages),
        lambda delta: tuple(stage.init_client(delta) for stage in stages),
        through([stage.client for stage in stages]),
        reduce,
        through([stage.server for stage in stages]),
    )


def through(sides: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """(value, states, key) -> (value, states) after each side in turn, with a key and a state for each."""

    def passed(value: PyTree, states: StageState, key: jax.Array) -> tuple[PyTree, StageState]:
        after = []
        for number, (side, state) in enumerate(zip(sides, states)):
            value, state = side(value, state, jax.random.fold_in(key, number))
            after.append(state)
        return value, tuple(after)

    return passed


def stateless(role: Literal["weight", "clip"], client: Callable[[Update], Update]) -> Stage:
    """A stage that only maps each update."""
    return Stage(role, _nothing, _nothing, lambda u, s, key: (client(u), s), lambda a, s, key: (a, s))


def by_examples() -> Stage:
    """Each client counts by its examples (McMahan et al. 2017): the weight that updates come with."""
    return stateless("weight", lambda update: update)


def uniformly() -> Stage:
    """Each client that has examples counts the same."""
    return stateless("weight", lambda update: update._replace(weight=jnp.sign(update.weight)))


def clip(bound: float) -> Stage:
    """Scale a delta whose Euclidean norm exceeds `bound` down to it."""

    def clipped(update: Update) -> Update:
        factor = jnp.minimum(1.0, bound / jnp.maximum(trees.norm(update.delta), 1e-12))
        return update._replace(delta=trees.scale(factor, update.delta))

    return stateless("clip", clipped)


def mean() -> Reduce:
    """The weighted mean."""

    def zero(delta: PyTree) -> PyTree:
        return trees.zeros_like(delta), jnp.float32(0), jnp.float32(0)

    def add(total: PyTree, updates: Update, sent: jax.Array) -> PyTree:
        weight = jnp.where(sent, updates.weight, 0.0)
        counted = trees.select(sent, updates.delta, trees.zeros_like(updates.delta))
        delta = jax.tree.map(lambda s, d: s + jnp.tensordot(weight, d, 1), total[0], counted)
        return delta, total[1] + weight.sum(), total[2] + jnp.sum(sent).astype(jnp.float32)

    def finish(total: PyTree, everyone: jax.Array) -> Aggregate:
        delta, weight, clients = total
        mean = trees.scale(1.0 / jnp.maximum(weight, 1e-12), delta)
        return Aggregate(mean, weight, clients, weight / jnp.maximum(everyone, 1e-12))

    return Reduce(zero, add, finish)


def _nothing(_: PyTree) -> tuple[()]:
    return ()
