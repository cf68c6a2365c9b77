"""The weighted mean: a running sum on each device, one sum over devices, one division."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    PyTree,
    Reduce,
    RoundContext,
    SimulationParts,
    State,
    Update,
    always_compatible,
)
from fedjax_mri.tasks.task import Model


@dataclass(frozen=True)
class Mean:
    """Settings of the weighted mean of the cohort's updates."""

    divisor: Literal["realised", "expected"] = "realised"  # the cohort's weights, or those of an average cohort

    def build(self) -> Reduce:
        """Returns the reduction."""
        return mean(self.divisor)


def mean(divisor: Literal["realised", "expected"] = "realised") -> Reduce:
    """Returns the reduction to the weighted sum of updates, divided by the sum of the cohort's weights.

    With "expected" it is divided by the weight of an average cohort, a constant that does not depend on who takes part:
    differential privacy needs that, and the mean over cohorts is then unbiased. `auxiliary` and statistics are always
    divided by the sum of the cohort's weights: a variance that moved further than to the mean could become negative.
    `check_compatible` refuses "expected" under a sampler that does not say how often each client takes part.
    """

    def zero(sent: Update, cohort_size: int) -> PyTree:
        return trees.zeros_like((sent.delta, sent.auxiliary)), jnp.float32(0), jnp.float32(0)

    def add(total: PyTree, updates: Update, places: jax.Array) -> PyTree:
        sent = places >= 0
        weight = jnp.where(sent, updates.weight, 0.0)
        values = (updates.delta, updates.auxiliary)
        counted = trees.select(sent, values, trees.zeros_like(values))
        sums = jax.tree.map(lambda s, d: s + jnp.tensordot(weight, d, 1), total[0], counted)
        return sums, total[1] + weight.sum(), total[2] + jnp.sum(sent).astype(jnp.float32)

    def finish(total: PyTree, state: State, at: RoundContext) -> tuple[Aggregate, State]:
        (delta, auxiliary), weight, clients = total
        realised = 1.0 / jnp.maximum(weight, 1e-12)
        expected = 1.0 / jnp.maximum(at.expected_weight, 1e-12)
        params = trees.scale(realised if divisor == "realised" else expected, delta.params)
        mean = Model(params, trees.scale(realised, delta.carry))
        share = weight / jnp.maximum(at.total_weight, 1e-12)
        return Aggregate(mean, trees.scale(realised, auxiliary), weight, clients, share), state

    check = refuse_unknown_average if divisor == "expected" else always_compatible
    return Reduce("mean", zero, add, finish, linear=True, check_compatible=check)


def refuse_unknown_average(parts: SimulationParts) -> None:
    """Raises UserError if nobody knows the weight of an average cohort."""
    if not parts.sampler.knows_expected_weight():
        raise UserError(
            "uplink.reduce.divisor=expected: under this way of sampling some clients come more often than others, and "
            "the weight of an average cohort is not known; choose --uplink.reduce.divisor realised, or another "
            "--fed.sampling, such as uniform"
        )
