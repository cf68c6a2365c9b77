"""Clipping: a bound on the norm of each client's change of the model.

The norm is that of `delta` alone. What an algorithm sends beside it, such as SCAFFOLD's control variates or FedNova's
step counts, is another quantity and passes as it is.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.fed.uplink.contract import Notes, Sender, Stage, State, Update


@dataclass(frozen=True)
class Clip:
    """Scale each client's change of the model down to a norm of `bound`."""

    bound: float = 1.0  # Euclidean norm

    def build(self) -> Stage:
        """Raises UserError unless the bound is a positive number."""
        positive("uplink.stages clip: bound", self.bound)
        return clip(self.bound)


def clip(bound: float) -> Stage:
    """Scale a delta whose Euclidean norm exceeds `bound` down to it; one that is not finite becomes zero.

    A client's state counts its updates that were not finite: float32 [] (see `nonfinite_clients`). With such an update
    goes what is sent beside it, so that no part of it reaches the server.
    """

    def client(update: Update, discarded: jax.Array, sender: Sender) -> tuple[Update, State, Notes]:
        norm = trees.norm(update.delta)
        finite = jnp.isfinite(norm)
        factor = jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-12))
        clipped = trees.scale(factor, update.delta)
        delta, aside = trees.select(finite, (clipped, update.aside), trees.zeros_like((clipped, update.aside)))
        lost = jnp.where(finite, 0.0, 1.0)
        notes = {"clipped": jnp.where(norm > bound, 1.0, 0.0) * (1.0 - lost), "nonfinite": lost}
        return update._replace(delta=delta, aside=aside), discarded + lost, notes

    return Stage(
        "clip",
        init_client=lambda sent: jnp.float32(0),
        client=client,
        sensitivity=lambda before: bound,
    )
