"""The contract of sampling: the population of clients, and the cohort that takes part in a round."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.traffic import Traffic


class Population(NamedTuple):
    """All clients and their work in a run: what samplers and conditions are built from."""

    sizes: np.ndarray  # int32 [N], examples
    steps: np.ndarray = np.zeros(0, np.int32)  # int32 [N], local steps in a round, at most `local.steps`
    epochs: int = 1  # local epochs in a round
    epoch_steps: np.ndarray = np.zeros(0, np.int32)  # int32 [N], local steps of one epoch, even if a round has fewer
    traffic: Callable[[], Traffic] = lambda: Traffic(0, 0)  # of one client in a round; traces the model when called
    rounds: int = 1  # rounds of the run
    batch: int = 1  # examples of a local step
    # int32 [N]; None where nobody knows whose each example is. Bounds on units, where a program alone knows the sizes
    patients: np.ndarray | None = None
    key: Callable[[jax.Array], jax.Array] = jax.random.key  # round int32 [] -> key by which its cohort is drawn


class Cohort(NamedTuple):
    """The clients of a round, in K places. Places that are not `present` are empty, so that K never changes."""

    client: jax.Array  # int32 [K]; the present ones are all different
    present: jax.Array  # bool [K]
    times: jax.Array  # float32 [K], how often each was drawn, which multiplies its weight
    staleness: jax.Array  # int32 [K], server steps since the broadcast it started from; 0 unless rounds overlap
    seconds: jax.Array  # float32 [], since the server step before; 0 unless rounds overlap


Draw = Callable[[jax.Array, jax.Array], Cohort]  # (key, round int32 []) -> cohort
EQUAL_LAWS = ("poisson", "fixed", "everyone", "cyclic", "replacement")  # by which all clients come equally often


class Sampler(NamedTuple):
    """Draws the clients that take part in a round."""

    draw: Draw
    # The distribution of cohorts, for example for a privacy accountant: "poisson", each client independently; "fixed",
    # a fixed number without replacement; "everyone"; "all but one", always the same one; "cyclic", in a fixed order;
    # "replacement"; or another word.
    law: str
    rate: float  # mean share of all clients in a cohort; for "poisson" each client's probability
    max_staleness: int = 0  # the most server steps that a client can be behind when its update arrives
    # float32 [N], how often each client is in a cohort on average; None: `rate` under EQUAL_LAWS, else nobody knows
    participation: jax.Array | None = None

    def expected_weight(self, weights: jax.Array) -> jax.Array:
        """Returns the sum of the `weights` float32 [N] of a cohort, in the mean over cohorts.

        It is right if `knows_expected_weight`.
        """
        if self.participation is None:
            return self.rate * jnp.sum(weights)
        return jnp.sum(self.participation * weights)

    def knows_expected_weight(self) -> bool:
        """Returns whether it is known how often each client takes part on average."""
        return self.law in EQUAL_LAWS or self.participation is not None

    def cohort_size(self) -> int:
        """Returns K, the number of places of a cohort."""
        return jax.eval_shape(self.draw, jax.random.key(0), jnp.int32(0)).client.size


def cohort_of(client: jax.Array, present: jax.Array | None = None, times: jax.Array | None = None,
              staleness: jax.Array | None = None, seconds: jax.Array | None = None) -> Cohort:  # fmt: skip
    """Returns the cohort of `client` int32 [K]; by default all are present, drawn once and not stale."""
    return Cohort(
        client,
        jnp.ones(client.shape, bool) if present is None else present,
        jnp.ones(client.shape, jnp.float32) if times is None else times,
        jnp.zeros(client.shape, jnp.int32) if staleness is None else staleness,
        jnp.float32(0) if seconds is None else seconds,
    )


def checked_size(cohort: int, limit: int) -> int:
    """Returns `cohort`, a number of clients. Raises UserError if it is below 1 or above `limit`."""
    if not 1 <= cohort <= limit:
        raise UserError(f"sampling.cohort={cohort}: there are {limit} clients; choose 1 to {limit}")
    return cohort
