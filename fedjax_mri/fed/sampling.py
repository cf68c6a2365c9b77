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

    client: jax.Array  # int32 [K], no client twice
    present: jax.Array  # bool [K]


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
            return Cohort(shuffled(key, first, jnp.int32(population)), jnp.ones(self.cohort, bool))

        return sample


@dataclass(frozen=True)
class Everyone:
    """All clients, each round."""

    def build(self, population: int) -> Sampler:
        """Raises UserError when there is nobody."""
        everyone = Cohort(jnp.arange(population, dtype=jnp.int32), jnp.ones(population, bool))
        return lambda key, round: everyone
