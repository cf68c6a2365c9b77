"""The contract of sampling: whom there is to ask, and who is asked in a round."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.traffic import Traffic


class Population(NamedTuple):
    """The clients there are, and what a run asks of them: what samplers and conditions are built for."""

    sizes: np.ndarray  # int32 [N], examples
    steps: np.ndarray = np.zeros(0, np.int32)  # int32 [N], local steps in a round
    epochs: int = 1  # that those steps make
    traffic: Callable[[], Traffic] = lambda: Traffic(0, 0)  # of one client in a round; traces the model when called
    rounds: int = 1  # of the run


class Cohort(NamedTuple):
    """K places, of which those not `present` stay empty: shapes do not depend on chance."""

    client: jax.Array  # int32 [K], no client twice among the present
    present: jax.Array  # bool [K]
    times: jax.Array  # float32 [K], how often each was drawn: its weight counts as often
    staleness: jax.Array  # int32 [K], server steps since the broadcast it started from; 0 unless rounds overlap
    seconds: jax.Array  # float32 [], since the server step before; 0 unless rounds overlap: conditions keep the clock


Draw = Callable[[jax.Array, jax.Array], Cohort]  # (key, round int32 []) -> cohort


class Sampler(NamedTuple):
    """Who takes part in a round."""

    draw: Draw
    # How cohorts are distributed, for whoever must know it, such as a privacy accountant: "poisson", each client by a
    # coin of its own; "fixed", a number without replacement; "everyone"; "replacement"; or another word.
    law: str
    rate: float  # share of all clients in an average cohort; under "poisson" each client's probability
    max_staleness: int = 0  # the most server steps that a client can be behind when its update arrives


def cohort_of(client: jax.Array, present: jax.Array | None = None, times: jax.Array | None = None,
              staleness: jax.Array | None = None, seconds: jax.Array | None = None) -> Cohort:  # fmt: skip
    """The cohort of clients int32 [K]: all present, each drawn once, none stale, unless an argument says otherwise."""
    return Cohort(
        client,
        jnp.ones(client.shape, bool) if present is None else present,
        jnp.ones(client.shape, jnp.float32) if times is None else times,
        jnp.zeros(client.shape, jnp.int32) if staleness is None else staleness,
        jnp.float32(0) if seconds is None else seconds,
    )


def checked_size(cohort: int, most: int) -> int:
    """`cohort` itself. Raises UserError when it is empty or larger than `most`."""
    if not 1 <= cohort <= most:
        raise UserError(f"sampling.cohort={cohort}: there are {most} clients; choose 1 to {most}")
    return cohort
