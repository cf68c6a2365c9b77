"""Which lane trains which client, and in what order.

Clients are dealt out in descending order of steps, each to the lane with the least work so far. The longest queue is
at most 4/3 times that of the best schedule (Graham 1969).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Queues(NamedTuple):
    """The queues of all lanes: lane l trains the cohort's places order[start[l]:stop[l]], one after another."""

    order: jax.Array  # int32 [K], places of the cohort; those without work come last, in no lane's queue
    start: jax.Array  # int32 [lanes]
    stop: jax.Array  # int32 [lanes]


def longest_first(steps: jax.Array, lanes: int, home: jax.Array | None = None, devices: int = 1) -> Queues:
    """Returns the queues of all lanes for cohort places that need `steps` int32 [K] local steps each.

    Lanes are divided evenly among `devices`. A place goes to a lane of its device `home` int32 [K], or of any device if
    that is -1.
    """
    ranked = jnp.argsort(steps, descending=True)
    home = jnp.full(steps.shape, -1, jnp.int32) if home is None else home
    # Lanes are numbered so that neighbours are on different devices: the first of equally loaded lanes is taken.
    device = jnp.arange(lanes, dtype=jnp.int32) % devices

    def deal(load: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
        away = (home[place] >= 0) & (home[place] != device)
        lane = jnp.argmin(jnp.where(away, jnp.iinfo(jnp.int32).max, load))
        return load.at[lane].add(steps[place]), jnp.where(steps[place] > 0, lane, lanes).astype(jnp.int32)

    _, dealt = jax.lax.scan(deal, jnp.zeros(lanes, jnp.int32), ranked)
    lane = jnp.where(dealt < lanes, dealt % devices * (lanes // devices) + dealt // devices, lanes)
    by_lane = jnp.argsort(lane)
    bounds = jnp.searchsorted(lane[by_lane], jnp.arange(lanes + 1, dtype=jnp.int32)).astype(jnp.int32)
    return Queues(ranked[by_lane].astype(jnp.int32), bounds[:-1], bounds[1:])
