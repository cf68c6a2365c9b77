"""FedRep.

Collins, Hassani, Mokhtari, Shakkottai: Exploiting Shared Representations for Personalized Federated Learning, ICML 2021
(arXiv 2102.07078), algorithm 1: in each round a client first trains its own head with the shared body frozen, and then
the body with the head frozen; bodies are averaged. A client of a single local step in a round trains its head alone,
and never the body: give as many epochs, or as small batches, that clients take several steps.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core import paths
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.algorithm import Algorithm, PyTree
from fedjax_mri.fed.algorithms.fedper import FedPer
from fedjax_mri.tasks.task import Model


@dataclass(frozen=True)
class FedRep:
    """Settings of FedRep."""

    head: tuple[str, ...] = ("logits",)  # patterns of what stays with the client, see paths.py
    head_share: float = 0.5  # of the local steps; the rest trains the body

    def build(self) -> Algorithm:
        """Returns the algorithm. Raises UserError unless 0 < head_share < 1; patterns are refused as FedPer's are."""
        if is_concrete(self.head_share) and not 0 < self.head_share < 1:
            raise UserError(f"algorithm.head_share={self.head_share}: must be between 0 and 1")
        return FedPer(self.head).build()._replace(frozen=self._frozen, frozen_share=self.head_share)

    def _frozen(self, params: PyTree, progress: jax.Array) -> PyTree:
        trains_head, is_head = progress < self.head_share, paths.matching(Model(params, ()), self.head).params
        return jax.tree.map(lambda head: jnp.logical_not(trains_head) if head else trains_head, is_head)
