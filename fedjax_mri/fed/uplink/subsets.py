"""Rules that compare all subsets of a cohort."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError

MOST = 20_000  # subsets that are compared


def best_subset(figure: Callable[[jax.Array], jax.Array], present: jax.Array, faulty: int) -> jax.Array:
    """Returns which of the vectors `present` [M] are in the subset, without `faulty` of them, of the least `figure`.

    `figure` is a function of a subset, bool [M]. Of equal ones the first in lexicographic order is taken.
    """
    size = len(present)
    kept = np.array(list(itertools.combinations(range(size), size - faulty)), np.int32)
    chosen = jnp.asarray((kept[:, :, None] == np.arange(size)[None, None]).any(1))
    figures = jax.lax.map(lambda one: figure(one & present), chosen, batch_size=min(len(chosen), 256))
    figures = jnp.where((chosen | present[None]).all(1), figures, jnp.inf)  # absent ones are not left out
    return chosen[jnp.argmin(figures)] & present


def refuse_many(name: str, cohort_size: int, faulty: int) -> None:
    """Raises UserError if there are more subsets than can be compared."""
    if (count := math.comb(cohort_size, faulty)) > MOST:
        raise UserError(
            f"uplink.reduce {name}: faulty={faulty} of {cohort_size} updates leaves {count:,} subsets to compare, more "
            f"than {MOST:,}; choose --fed.uplink.reduce multikrum"
        )
