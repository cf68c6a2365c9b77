"""Attacks on updates: a client's own, as the first stage of the uplink; or everyone's, around the reduction."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, AttackerView
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    Notes,
    PyTree,
    Reduce,
    RoundContext,
    Sender,
    SimulationParts,
    Stage,
    State,
    Update,
    Uplink,
)
from fedjax_mri.fed.uplink.reductions.matrix import Rows, Rule, matrix
from fedjax_mri.fed.uplink.vectors import squared_lengths, vectors_of


class CorruptState(NamedTuple):
    """State between rounds of a reduction under an omniscient attack."""

    attack: State
    reduce: State  # of the reduction in force


def with_attack(uplink: Uplink, attack: Attack | None, attacking: jax.Array) -> Uplink:
    """Returns the uplink with an attack by the clients of `attacking`, bool [N]; unchanged without one.

    Raises UserError if the attack would undo the bound that a private sum rests on.
    """
    if attack is not None and attack.send is not None:
        uplink = uplink._replace(stages=chain(own_update(attack, attacking), uplink.stages))
    if attack is not None and attack.craft is not None:
        if uplink.empty_round == "release":
            raise UserError(
                f"attack {attack.name}: it replaces updates after they were clipped, which a private sum does not "
                "allow; choose an attack on a client's own update, such as --fed.attack signflip, or --fed.privacy off"
            )
        uplink = uplink._replace(reduce=corrupt(attack, attacking, uplink.reduce))
    return uplink


def own_update(attack: Attack, attacking: jax.Array) -> Stage:
    """Returns the stage in which an attacker replaces its delta.

    It comes first, so that what the server enforces, such as a bound on the norm, still holds.
    """
    assert attack.send is not None
    change = attack.send

    def client(update: Update, state: State, sender: Sender) -> tuple[Update, State, Notes]:
        sent = change(update.delta, sender.key)
        return update._replace(delta=trees.select(attacking[sender.client], sent, update.delta)), state, {}

    return Stage(
        "attack", client=client, linear=True, check_compatible=lambda parts: refuse_nothing_sent(attack, parts)
    )


def corrupt(attack: Attack, attacking: jax.Array, reduce: Reduce) -> Reduce:
    """Returns `reduce` of updates among which the attackers' are replaced by what the attack makes of all.

    Each device holds all rows, as `matrix` does. The attack may ask what `reduce` would make of what it sends.
    """
    assert attack.craft is not None
    craft = attack.craft
    gather = matrix(Rule(reduce.name))

    def finish(rows: Rows, state: CorruptState, at: RoundContext) -> tuple[Aggregate, CorruptState]:
        finite = jax.vmap(trees.is_finite)(rows.delta)
        rows = rows._replace(delta=trees.select(finite, rows.delta, trees.zeros_like(rows.delta)))
        hostile = jnp.where(attacking[at.client], rows.sent, 0.0)

        def reduced(vector: PyTree) -> tuple[Aggregate, State]:
            delta = trees.select(hostile > 0, trees.repeat(vector, hostile.size), rows.delta)
            return reduce_rows(reduce, rows._replace(delta=delta), state.reduce, at)

        seen = AttackerView(rows.delta, rows.sent - hostile, hostile, lambda vector: reduced(vector)[0].delta)
        if reduce.rule is not None:
            seen = seen._replace(error_along=partial(error_along, reduce, rows, seen, state.reduce, at))
        vector, after = craft(seen, state.attack)
        aggregate, inner = reduced(vector)
        return aggregate, CorruptState(after, inner)

    def check_compatible(parts: SimulationParts) -> None:
        refuse_nothing_sent(attack, parts)
        reduce.check_compatible(parts)

    init = lambda sent: CorruptState(attack.init(sent), reduce.init(sent))  # noqa: E731
    rule, shares = reduce.rule, reduce.reports_shares
    return Reduce(
        reduce.name,
        gather.zero,
        gather.add,
        finish,
        init=init,
        check_compatible=check_compatible,
        rule=rule,
        reports_shares=shares,
    )


def error_along(
    reduce: Reduce, rows: Rows, seen: AttackerView, state: State, at: RoundContext, vector: PyTree, start: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """Returns `AttackerView.error_along` of a rule. It reads the rows once, for their products, not at every x."""
    assert reduce.combine is not None and reduce.rule is not None
    act, weighs, attacking = reduce.combine, reduce.rule.combine is None, seen.attacking > 0
    delta = trees.select(attacking, trees.repeat(vector, attacking.size), rows.delta)
    vectors, middle = vectors_of(delta, rows.sent > 0), honest.mean(seen)
    end = jnp.zeros(attacking.size + 1).at[jnp.argmax(attacking)].set(1.0)
    mean = jnp.append(seen.honest / jnp.maximum(seen.honest.sum(), 1.0), 0.0)

    def distance(x: jax.Array) -> jax.Array:
        sent = start + x * (end - start)
        found, shares, _ = act(vectors._replace(mix=jnp.where(attacking[:, None], sent[None], vectors.mix)), state, at)
        if not weighs:
            return trees.norm(trees.subtract(found, middle))
        return jnp.sqrt(squared_lengths(vectors, jnp.append(shares, 1 - shares.sum()) - mean))

    return distance


def reduce_rows(reduce: Reduce, rows: Rows, state: State, at: RoundContext) -> tuple[Aggregate, State]:
    """Returns what a reduction makes of rows, and its state after them."""
    updates = Update(rows.delta, rows.auxiliary, rows.weight)
    places = jnp.where(rows.sent > 0, jnp.arange(rows.sent.size, dtype=jnp.int32), -1)
    empty = reduce.zero(trees.take(updates, jnp.int32(0)), rows.sent.size)
    return reduce.finish(reduce.add(empty, updates, places), state, at)


def refuse_nothing_sent(attack: Attack, parts: SimulationParts) -> None:
    """Raises UserError if clients send no change of a model, which the attack could replace."""
    if not jax.tree.leaves(parts.sent.delta) or parts.algorithm.member is not None:
        raise UserError(
            f"attack {attack.name}: this algorithm combines no updates; choose another, such as --fed.algorithm "
            "fedavg, or an attack on data, such as --fed.attack labelflip"
        )


def refuse_secure(attack: Attack | None, hides: str) -> None:
    """Raises UserError if an attack needs single updates and secure sums hide them; `hides` says what they hide."""
    if attack is not None and attack.craft is not None and hides:
        raise UserError(
            f"attack {attack.name}: it needs the honest clients' updates, which secure sums hide; choose an attack on "
            "a client's own update, such as --fed.attack signflip, or --fed.secure off"
        )
