"""Canaries: pretended clients that show how much a private sum gives away, in the very run that is audited.

Each canary is a client whose update has one large entry, of which each canary has another. Half of them, by the toss of
a coin, take part in rounds as real clients do, and pass the same clip and sum. An observer who knows all other updates
scores each canary by how likely its entries of the noisy sums are if it took part. `bounds` makes a lower bound on
epsilon of the scores. What canaries added is taken off again before the server moves, so that the model stays that of
a run without them, up to rounding. `canary_patients` does the same for the patients of a hospital, `canary_updates` for
clients that add noise themselves.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.privacy import bounds
from fedjax_mri.fed.uplink.contract import Aggregate, RoundContext, Sender, Update, Uplink, UplinkState

SIZE = 1e3  # of a canary's entry, over the clipping bound
SEED = 20_241  # of the canaries' entries and coins, which no other draw shares
SIGNIFICANCE = 0.05
SHARES = 0.02, 0.1, 0.3  # of the canaries that are guessed to be inside, each a guess of its own


class Canaries(NamedTuple):
    """K canaries, and what an observer has learnt of them."""

    entry: jax.Array  # int32 [K], place of the large entry in the update as one vector
    inside: jax.Array  # bool [K], whether it takes part
    score: jax.Array  # float32 [K], log of how much likelier the rounds were if it did


def with_canaries(uplink: Uplink, count: int, noise: Any) -> Uplink:
    """Returns a private uplink whose sum has so many canaries; its only state besides is `MechanismState`.

    Raises UserError, when the run is built, where an update has fewer entries than there are canaries.
    """
    reduce = uplink.reduce

    def init(sent: Update) -> Any:
        return reduce.init(sent)._replace(canaries=new_canaries(count, trees.count(sent.delta)))

    def finish(total: Any, state: Any, at: RoundContext) -> tuple[Aggregate, Any]:
        canaries, rate = state.canaries, at.expected_weight / at.total_weight
        came = canaries.inside & jax.random.bernoulli(jax.random.fold_in(at.key, 2), rate, (count,))

        def add(number: jax.Array, sums: Any) -> Any:
            update = clipped_canary(uplink, total.delta, canaries.entry[number], state, at)
            place = jnp.where(came[number], 0, -1).astype(jnp.int32)
            return reduce.add(sums, jax.tree.map(lambda x: x[None], update), place[None])

        everyone = jax.lax.fori_loop(0, count, add, total)._replace(unclipped=total.unclipped)
        aggregate, after = reduce.finish(everyone, state, at)
        scale = state.bound / at.expected_weight
        own = trees.subtract(everyone.delta, total.delta)
        seen = entries(aggregate.delta, canaries.entry) / scale - entries(total.delta, canaries.entry)
        learnt = canaries._replace(score=canaries.score + likelier(seen, rate, noise))
        without = aggregate._replace(delta=trees.subtract(aggregate.delta, trees.scale(scale, own)))
        return without, after._replace(canaries=learnt)

    return uplink._replace(reduce=reduce._replace(init=init, finish=finish))


def new_canaries(count: int, size: int) -> Canaries:
    """Returns canaries at different entries of an update of that size, about half of them inside."""
    if count > size:
        raise UserError(f"privacy.audit={count}: an update has {size} entries; give fewer canaries")
    places, coins = jax.random.split(jax.random.key(SEED))
    entry = jax.random.permutation(places, jnp.arange(size, dtype=jnp.int32))[:count]
    return Canaries(entry, jax.random.bernoulli(coins, 0.5, (count,)), jnp.zeros(count, jnp.float32))


def likelier(seen: jax.Array, rate: jax.Array, noise: Any) -> jax.Array:
    """Returns the logs of how much likelier entries [K] of a noisy sum are if their canaries take part at this rate."""
    return jnp.log1p(rate * jnp.expm1((2 * seen - 1) / (2 * noise**2)))


def clipped_canary(uplink: Uplink, like: Any, entry: jax.Array, state: Any, at: RoundContext) -> Update:
    """Returns the update of a canary, in the shapes of `like`, after the private clip, which is the last stage."""
    update = Update(canary_delta(like, entry, SIZE * state.bound), (), jnp.float32(1))
    clip = (uplink.stages.parts or (uplink.stages,))[-1]
    sender = Sender(jnp.int32(-1), at.round, at.key, jnp.float32(1), jnp.float32(1), UplinkState((), state))
    return clip.client(update, clip.init_client(update), sender)[0]


def canary_delta(like: Any, entry: jax.Array, value: jax.Array) -> Any:
    """Returns a tree of the shapes of `like`: `value` at one entry of the tree taken as one vector, zeros elsewhere."""
    (leaves, form), values, start = jax.tree.flatten(like), [], 0
    for leaf in leaves:
        index = start + jnp.arange(leaf.size, dtype=jnp.int32)
        values.append(jnp.where(index == entry, value, 0.0).reshape(leaf.shape))
        start += leaf.size
    return jax.tree.unflatten(form, values)


def entries(tree: Any, places: jax.Array) -> jax.Array:
    """Returns the entries at `places` int32 [K] of a tree taken as one vector."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])[places]


def lower_bound(canaries: Canaries, delta: float) -> float:
    """Returns the lower bound on epsilon that the canaries show, with 95 % confidence, by Gaussian privacy curves."""
    score, inside = np.asarray(canaries.score, np.float64), np.asarray(canaries.inside)
    several = bounds.guesses_of_shares(score[inside], score[~inside], SHARES)
    return bounds.lower_bound(several, delta, SIGNIFICANCE, bounds.one_run_gaussian)
