"""Which lane trains which client, and in what order.

Clients are dealt out longest first, each to the least loaded lane (Graham 1969: at most 4/3 of the best makespan).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Queues(NamedTuple):
    """Lane l trains the cohort's places order[start[l]:stop[l]], one after another."""

    order: jax.Array  # int32 [K], places of the cohort; those without work come last, in no lane's queue
    start: jax.Array  # int32 [lanes]
    stop: jax.Array  # int32 [lanes]


def longest_first(steps: jax.Array, lanes: int) -> Queues:
    """Queues for places that need `steps` int32 [K] local steps each."""
    ranked = jnp.argsort(steps, descending=True)

    def deal(load: jax.Array, work: jax.Array) -> tuple[jax.Array, jax.Array]:
        lane = jnp.argmin(load)
        return load.at[lane].add(work), jnp.where(work > 0, lane, lanes).astype(jnp.int32)

    _, lane = jax.lax.scan(deal, jnp.zeros(lanes, jnp.int32), steps[ranked])
    by_lane = jnp.argsort(lane)
    bounds = jnp.searchsorted(lane[by_lane], jnp.arange(lanes + 1, dtype=jnp.int32)).astype(jnp.int32)
    return Queues(ranked[by_lane].astype(jnp.int32), bounds[:-1], bounds[1:])
