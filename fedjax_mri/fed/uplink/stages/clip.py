"""Clipping: a bound on the norm of each client's change of the model.

The norm is that of `delta` alone. What an algorithm sends beside it, such as SCAFFOLD's control variates or FedNova's
step counts, is another quantity and passes as it is.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.fed.uplink.contract import Notes, PyTree, Sender, Stage, State, Update


@dataclass(frozen=True)
class Clip:
    """Scale each client's change of the model down to a norm of `bound`."""

    bound: float = 1.0  # Euclidean norm

    def build(self) -> Stage:
        """Raises UserError unless the bound is a positive number."""
        positive("uplink.stages clip: bound", self.bound)
        return clip(self.bound)


class Discarded(NamedTuple):
    """What `clip` remembers of a client; as an array over clients, with a leading axis [N]."""

    updates: jax.Array  # float32 [], updates of this client that were not finite


def clip(bound: float) -> Stage:
    """Scale a delta whose Euclidean norm exceeds `bound` down to it; one that is not finite becomes zero.

    What is sent beside an update that is not finite becomes zero as well, so that no part of it reaches the server.
    """

    def client(update: Update, state: Discarded, sender: Sender) -> tuple[Update, State, Notes]:
        norm = trees.norm(update.delta)
        finite = jnp.isfinite(norm)
        factor = jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-12))
        clipped = trees.scale(factor, update.delta)
        delta, aside = trees.select(finite, (clipped, update.aside), trees.zeros_like((clipped, update.aside)))
        lost = jnp.where(finite, 0.0, 1.0)
        notes = {"clipped": jnp.where(norm > bound, 1.0, 0.0) * (1.0 - lost), "nonfinite": lost}
        return update._replace(delta=delta, aside=aside), Discarded(state.updates + lost), notes

    return Stage(
        "clip",
        init_client=lambda sent: Discarded(jnp.float32(0)),
        client=client,
        sensitivity=lambda before: bound,
    )


def discarded_updates(states: PyTree) -> np.ndarray:
    """How many updates of each client were not finite, [N], from the states of all stages; 0 where nobody clips."""
    counts = [one for one in jax.tree.leaves(states, is_leaf=_is_discarded) if _is_discarded(one)]
    return sum((np.asarray(one.updates) for one in counts), np.zeros((), np.float32))


def _is_discarded(node: object) -> bool:
    return isinstance(node, Discarded)
