"""A line search for the factor by which an attack moves the result of the rule in force the furthest.

Shejwalkar, Houmansadr: Manipulating the Byzantine, NDSS 2021, optimise a factor against a known rule. The search is
that of the package byzfl: the step doubles until the result no longer moves further, then it shrinks.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import AttackerView
from fedjax_mri.fed.uplink.contract import PyTree

EVALUATIONS = 20
FIRST_STEP = 10.0
SHRINK = 0.8


def furthest(seen: AttackerView, start: PyTree, parts: jax.Array, direction: PyTree) -> PyTree:
    """Returns start + x * direction for the x >= 0 whose result is furthest from the mean of the honest updates.

    parts: float32 [K + 1], the parts of the rows and of zero in `start`.
    """
    middle = honest.mean(seen)

    def by_whole_updates(x: jax.Array) -> jax.Array:
        return trees.norm(trees.subtract(seen.aggregate(honest.moved(start, x, direction)), middle))

    distance = by_whole_updates if seen.error_along is None else seen.error_along(trees.add(start, direction), parts)

    def evaluate(_: int, search: tuple[Any, ...]) -> tuple[Any, ...]:
        best, most, step, expanding = search
        found = distance(best + step)
        better = found > most
        longer = expanding & better
        best, most = jnp.where(better, best + step, best), jnp.where(better, found, most)
        return best, most, jnp.where(longer, 2.0, SHRINK) * step, longer

    zero = jnp.float32(0)
    first = (zero, distance(zero), jnp.float32(FIRST_STEP), jnp.array(True))
    best, *_ = jax.lax.fori_loop(1, EVALUATIONS, evaluate, first)
    return honest.moved(start, best, direction)
