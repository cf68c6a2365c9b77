"""Clipping: a bound on the norm of each client's change of the model.

The norm is that of `delta` alone. What an algorithm sends besides, such as SCAFFOLD's control variates or FedNova's
step counts, is not clipped.
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
    """Settings of clipping: each client's change of the model is scaled down to a norm of `bound`."""

    bound: float = 1.0  # Euclidean norm

    def build(self) -> Stage:
        """Returns the stage. Raises UserError unless the bound is a positive number."""
        positive("uplink.stages clip: bound", self.bound)
        return clip(self.bound)


class NonfiniteCount(NamedTuple):
    """State of `clip` for a client; as an array over clients, with a leading axis [N]."""

    updates: jax.Array  # float32 [], updates of this client that were not finite


def zeroed_unless(finite: jax.Array, sent: PyTree, state: NonfiniteCount) -> tuple[PyTree, NonfiniteCount, jax.Array]:
    """Returns what is sent, zeros unless it was `finite` bool []; the count after it; and 1 if it was not, else 0."""
    nonfinite = jnp.where(finite, 0.0, 1.0)
    return trees.select(finite, sent, trees.zeros_like(sent)), NonfiniteCount(state.updates + nonfinite), nonfinite


def clip(bound: float) -> Stage:
    """Returns the stage that scales a delta down to a Euclidean norm of `bound`.

    A delta that is not finite becomes zero. What is sent besides becomes zero as well then, so that no part of the
    update reaches the server.
    """

    def client(update: Update, state: NonfiniteCount, sender: Sender) -> tuple[Update, State, Notes]:
        norm = trees.norm(update.delta)
        finite = jnp.isfinite(norm)
        clipped = trees.scale(trees.clip_factor(norm, bound), update.delta)
        (delta, auxiliary), state, nonfinite = zeroed_unless(finite, (clipped, update.auxiliary), state)
        notes = {"clipped": jnp.where(norm > bound, 1.0, 0.0) * (1.0 - nonfinite), "nonfinite": nonfinite}
        return update._replace(delta=delta, auxiliary=auxiliary), state, notes

    return Stage(
        "clip",
        init_client=lambda sent: NonfiniteCount(jnp.float32(0)),
        client=client,
        sensitivity=lambda before: bound,
        linear=True,
    )


def nonfinite_counts(states: PyTree) -> np.ndarray:
    """Returns how many updates of each client were not finite, float32 [N], from the states of all stages.

    Returns 0 if no stage clips.
    """
    counts = [node for node in jax.tree.leaves(states, is_leaf=_is_count) if _is_count(node)]
    return sum((np.asarray(node.updates) for node in counts), np.zeros((), np.float32))


def _is_count(node: object) -> bool:
    return isinstance(node, NonfiniteCount)
