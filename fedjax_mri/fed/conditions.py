"""Under what conditions a cohort works: how much of its work each client gets done, and when the round is over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.fed.sampling import Cohort


class Turnout(NamedTuple):
    """What becomes of a round's work."""

    steps: jax.Array  # int32 [K], local steps done; 0: none, or none that reached the server
    share: jax.Array  # float32 [K], what a client's weight is multiplied by
    spent: "Spent"


class Spent(NamedTuple):
    """What a round costs outside of this machine."""

    seconds: jax.Array  # float32 [], on the virtual clock
    up_mb: jax.Array  # float32 [], from clients to the server
    down_mb: jax.Array  # float32 [], from the server to clients
    lost: jax.Array  # float32 [], clients that were asked and sent nothing
    cut: jax.Array  # float32 [], clients that sent unfinished work


# (key of the round's conditions, round int32 [], cohort [K], local steps each would do int32 [K], MB of a broadcast)
Conditions = Callable[[jax.Array, jax.Array, Cohort, jax.Array, float], Turnout]


@dataclass(frozen=True)
class Ideal:
    """Everyone asked does all the work at once, and nothing is lost on the way."""

    def build(self, population: int) -> Conditions:
        """Nothing can be wrong."""
        return ideal


def ideal(key: jax.Array, round: jax.Array, cohort: Cohort, steps: jax.Array, mb: float) -> Turnout:
    """All steps, in no time."""
    clients = jnp.sum(cohort.present & (steps > 0)).astype(jnp.float32)
    none = jnp.float32(0)
    return Turnout(steps, jnp.ones(steps.shape, jnp.float32), Spent(none, clients * mb, clients * mb, none, none))
