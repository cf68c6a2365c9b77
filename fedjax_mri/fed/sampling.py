"""Who takes part in a round."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.errors import UserError
from fedjax_mri.fed.shuffle import shuffled


class Cohort(NamedTuple):
    """K places, of which those not `present` stay empty: shapes do not depend on chance."""

    client: jax.Array  # int32 [K], no client twice among the present
    present: jax.Array  # bool [K]
    times: jax.Array  # float32 [K], how often each was drawn: its weight counts as often
    late: jax.Array  # int32 [K], server steps since the broadcast it started from; 0 unless rounds overlap


def of(client: jax.Array, present: jax.Array | None = None, times: jax.Array | None = None,
       late: jax.Array | None = None) -> Cohort:  # fmt: skip
    """The cohort of clients int32 [K]: all present, each once, none late, unless it is said."""
    return Cohort(
        client,
        jnp.ones(client.shape, bool) if present is None else present,
        jnp.ones(client.shape, jnp.float32) if times is None else times,
        jnp.zeros(client.shape, jnp.int32) if late is None else late,
    )


Sampler = Callable[[jax.Array, jax.Array], Cohort]  # (key, round int32 []) -> cohort


@dataclass(frozen=True)
class Uniform:
    """`cohort` clients a round, drawn uniformly without replacement."""

    cohort: int = 32

    def build(self, population: int) -> Sampler:
        """Raises UserError when the cohort is empty or larger than the population."""
        if not 1 <= self.cohort <= population:
            raise UserError(f"sampling.cohort={self.cohort}: there are {population} clients; choose 1 to {population}")

        def sample(key: jax.Array, round: jax.Array) -> Cohort:
            first = jnp.arange(self.cohort, dtype=jnp.int32)  # of a shuffle of which the rest is never computed
            return of(shuffled(key, first, jnp.int32(population)))

        return sample


@dataclass(frozen=True)
class Everyone:
    """All clients, each round."""

    def build(self, population: int) -> Sampler:
        """Raises UserError when there is nobody."""
        everyone = of(jnp.arange(population, dtype=jnp.int32))
        return lambda key, round: everyone
