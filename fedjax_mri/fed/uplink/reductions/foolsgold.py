"""FoolsGold.

Fung, Yoon, Beschastnikh: The Limitations of Federated Learning in Sybil Settings, RAID 2020 (arXiv 1808.04866),
algorithm 1: clients whose updates, summed over all rounds, point in the same direction as another's lose weight. The
paper adds up the weighted updates; here their sum is divided by the number of clients.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.checks import positive
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, SimulationParts, State, Update
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.vectors import Vectors, dot, origin, pairs, vectors_of


@dataclass(frozen=True)
class FoolsGold:
    """Settings of FoolsGold; its state is the sum of each client's updates, as large as the rows of a cohort."""

    clients: int = 0  # of the federation; all of them take part in each round
    confidence: float = 1.0  # kappa, how steeply a client loses weight

    def build(self) -> Reduce:
        """Returns the reduction. Raises UserError unless there are clients and the confidence is positive."""
        positive("uplink.reduce foolsgold: confidence", self.confidence)
        if self.clients < 1:
            raise UserError(
                f"uplink.reduce foolsgold: clients={self.clients}: give the number of all clients, "
                "such as --uplink.reduce.clients 20"
            )
        return matrix(
            Rule(
                "foolsgold",
                self._weigh,
                init=self._init,
                check_compatible=self._check_compatible,
                needs_client_ids=True,
            )
        )

    def _init(self, sent: Update) -> State:
        return trees.repeat(trees.zeros_like(sent.delta), self.clients)

    def _weigh(self, vectors: Vectors, history: State, at: RoundContext) -> tuple[jax.Array, State]:
        usable = vectors.present & vectors.finite
        history = trees.add(history, trees.select(usable, vectors.rows, trees.zeros_like(vectors.rows)))
        whole = vectors_of(history, vectors.present)
        parts = whole.mix - origin(whole)[None]
        products = dot(dot(parts, whole.inner), parts.T)
        lengths = jnp.sqrt(jnp.maximum(jnp.diag(products), 1e-30))
        weights = learning_rates(products / lengths[:, None] / lengths[None], vectors.present, self.confidence)
        return weights / jnp.maximum(vectors.present.sum(), 1).astype(jnp.float32), history

    def _check_compatible(self, parts: SimulationParts) -> None:
        if (cohort_size := parts.sampler.cohort_size()) != self.clients:
            raise UserError(
                f"uplink.reduce foolsgold: clients={self.clients}: there are {cohort_size}; give "
                f"--uplink.reduce.clients {cohort_size}"
            )


def learning_rates(similarity: jax.Array, present: jax.Array, confidence: float) -> jax.Array:
    """Returns what each client's update counts, from 0 to 1, float32 [K], by the `similarity` [K, K] of histories."""
    others = pairs(present) & ~jnp.eye(len(present), dtype=bool)
    similarity = jnp.where(others, similarity, 0.0)
    most = jnp.max(similarity, 1)
    pardon = jnp.where(most[:, None] < most[None], most[:, None] / jnp.maximum(most, 1e-12)[None], 1.0)
    rates = 1 - jnp.clip(jnp.max(similarity * pardon, 1), 0.0, 1.0)
    rates = jnp.where(present, rates, 0.0) / jnp.maximum(jnp.max(jnp.where(present, rates, 0.0)), 1e-12)
    rates = jnp.clip(rates, 1e-6, 0.99)  # the logit of 1 is infinite
    return jnp.where(present, jnp.clip(confidence * (jnp.log(rates / (1 - rates)) + 0.5), 0.0, 1.0), 0.0)
