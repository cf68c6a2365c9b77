"""Statistics of the honest updates of a round, from which omniscient attackers make theirs."""

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.attack.contract import AttackerView
from fedjax_mri.fed.uplink.contract import PyTree


def mean(seen: AttackerView) -> PyTree:
    """Returns the mean of the honest updates, each of which counts the same; zeros if there are none."""
    share = seen.honest / jnp.maximum(seen.honest.sum(), 1.0)
    return jax.tree.map(lambda rows: jnp.tensordot(share, rows, 1), seen.rows)


def centred(seen: AttackerView) -> PyTree:
    """Returns the honest updates minus their mean, [K, ...]; zeros at all other places."""
    gaps = jax.tree.map(lambda rows, middle: rows - middle[None], seen.rows, mean(seen))
    return trees.select(seen.honest > 0, gaps, trees.zeros_like(gaps))


def std(seen: AttackerView) -> PyTree:
    """Returns the standard deviation of each coordinate over the n honest updates, divided by n - 1."""
    degrees = jnp.maximum(seen.honest.sum() - 1, 1.0)
    return jax.tree.map(lambda gaps: jnp.sqrt(jnp.sum(gaps**2, 0) / degrees), centred(seen))


def moved(start: PyTree, factor: jax.Array | float, direction: PyTree) -> PyTree:
    """Returns start + factor * direction."""
    return trees.add(start, trees.scale(factor, direction))
