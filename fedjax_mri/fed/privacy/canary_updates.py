"""Canaries under local privacy: they show how much the updates give away that clients noise themselves.

Each canary is a client that sends one large entry in every round, or zeros in its place, by the toss of a coin. What it
sends passes the clip and the noise of real clients' updates. An observer who sees the result scores each canary by how
likely the result is if the entry was sent. The server's sum has no canary in it, so that the model is that of a run
without them, to the last bit.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.privacy.canaries import SIZE, Canaries, canary_delta, entries, likelier, new_canaries
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import Aggregate, RoundContext, Sender, Stage, Update, UplinkState


def audit_updates(stages: Sequence[Stage], count: int, bound: float, noise: Any) -> Stage:
    """Returns the stage that scores so many canaries in each round, and that changes no update.

    stages: those that clip and noise an update, without states; bound: on the norm of an update; noise: noise
    multiplier. When the run is built, `new_canaries` raises UserError where an update has fewer entries than canaries.
    """
    release = chain(*stages)

    def init(sent: Update) -> Canaries:
        return new_canaries(count, trees.count(sent.delta))

    def sent_entry(canaries: Canaries, like: Any, at: RoundContext, number: jax.Array) -> jax.Array:
        entry = canaries.entry[number]
        delta = canary_delta(like, entry, jnp.where(canaries.inside[number], SIZE * bound, 0.0))
        update, one = Update(delta, (), jnp.float32(1)), jnp.float32(1)
        key = jax.random.fold_in(at.key, number)
        sender = Sender(jnp.int32(-1), at.round, key, one, one, UplinkState((), ()))
        sent = release.client(update, release.init_client(update), sender)[0]
        return entries(sent.delta, entry[None])[0]

    def server(aggregate: Aggregate, state: Canaries, at: RoundContext) -> tuple[Aggregate, Canaries]:
        seen = jax.lax.map(partial(sent_entry, state, aggregate.delta, at), jnp.arange(count)) / bound
        return aggregate, state._replace(score=state.score + likelier(seen, jnp.float32(1), noise))

    return Stage("audit", init=init, server=server, sensitivity=lambda bound: bound, linear=True)
