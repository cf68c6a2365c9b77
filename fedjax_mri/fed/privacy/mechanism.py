"""The Gaussian mechanism of a round: clip each client's update, sum, add noise once, divide by a constant.

`clip_to_one` and `noisy_sum` belong together, since any one part alone guarantees nothing: a weight after the clip, a
divisor that depends on who came, or noise on the mean in place of the sum would each break the guarantee.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import keys, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.privacy import banded
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    Notes,
    PyTree,
    Reduce,
    RoundContext,
    Sender,
    SimulationParts,
    Stage,
    State,
    Update,
    refuse_auxiliary,
)
from fedjax_mri.fed.uplink.stages.clip import NonfiniteCount, zeroed_unless

RATE = 0.2  # of adaptive clipping (Andrew et al. 2021, arXiv 1905.03871)
COUNT_SHARE = 20.0  # clients of an average cohort over the noise on the count of unclipped updates
UNCLIPPED = 1 - 1e-6  # norm of a clipped update over the bound; rounding leaves those at the bound a little off 1


class MechanismState(NamedTuple):
    """What the server keeps between rounds."""

    bound: jax.Array  # float32 [], clipping bound of the next round
    earlier: PyTree  # [bands - 1, ...], noise of the last rounds, the newest first; () if it is independent
    canaries: PyTree = ()  # of a run that is audited, see `canaries`


class Total(NamedTuple):
    """What a device has added up."""

    delta: PyTree  # sum of weight times clipped update over the bound
    unclipped: jax.Array  # float32 [], clients whose update was below the bound, each less a half


def every_client(examples: jax.Array) -> jax.Array:
    """Returns weight 1 for each client, even one without examples: a constant, whoever they are."""
    return jnp.ones_like(examples)


def clip_to_one() -> Stage:
    """Returns the stage that clips an update at the bound of the round and divides it by the bound.

    Its norm is at most 1 then; all that leaves the client counts. An update that is not finite becomes zero.
    """

    def client(update: Update, state: NonfiniteCount, sender: Sender) -> tuple[Update, State, Notes]:
        bound = sender.server.reduce.bound
        norm = trees.norm(update.delta)
        finite = jnp.isfinite(norm)
        scaled = trees.scale(1.0 / jnp.maximum(norm, bound), update.delta)
        delta, state, nonfinite = zeroed_unless(finite, scaled, state)
        notes = {"clipped": jnp.where(norm > bound, 1.0, 0.0) * (1.0 - nonfinite), "nonfinite": nonfinite}
        return update._replace(delta=delta), state, notes

    return Stage(
        "private clip",
        init_client=lambda sent: NonfiniteCount(jnp.float32(0)),
        client=client,
        sensitivity=lambda before: 1.0,
        linear=True,
        check_compatible=refuse_what_is_not_clipped,
    )


def refuse_what_is_not_clipped(parts: SimulationParts) -> None:
    """Raises UserError if clients send what the clip does not bound, or statistics, which noise would spoil."""
    refuse_auxiliary(parts, "privacy", "which is not clipped")
    if jax.tree.leaves(parts.sent.delta.carry):
        raise UserError(
            "privacy: running statistics would travel, and noise makes variances negative; choose a network with "
            'norm="group", or --fed.algorithm fedbn, which keeps them at the client'
        )


def noisy_sum(clip: float, noise: float, quantile: float, bands: int) -> Reduce:
    """Returns the reduction to (sum of updates + noise) times the bound, over the clients of an average cohort.

    clip: the first bound. quantile: the share of updates that adaptive clipping leaves unclipped; 0: the bound stays.
    bands: rounds over which noise is correlated, see `banded`; 1: it is independent.
    """

    def init(sent: Update) -> MechanismState:
        earlier = trees.repeat(trees.zeros_like(sent.delta), bands - 1) if bands > 1 else ()
        return MechanismState(jnp.float32(clip), earlier)

    def zero(sent: Update, cohort_size: int) -> Total:
        return Total(trees.zeros_like(sent.delta), jnp.float32(0))

    def add(total: Total, updates: Update, places: jax.Array) -> Total:
        weight = jnp.where(places >= 0, jnp.clip(updates.weight, 0.0, 1.0), 0.0)
        counted = trees.select(places >= 0, updates.delta, trees.zeros_like(updates.delta))
        delta = jax.tree.map(lambda s, d: s + jnp.tensordot(weight, d, 1), total.delta, counted)
        below = jnp.where(jax.vmap(trees.norm)(counted) < UNCLIPPED, 0.5, -0.5)
        return Total(delta, total.unclipped + jnp.sum(jnp.where(places >= 0, below, 0.0)))

    def finish(total: Total, state: MechanismState, at: RoundContext) -> tuple[Aggregate, MechanismState]:
        fresh = normal_like(jax.random.fold_in(at.key, 0), total.delta)
        correlated, earlier = banded.correlate(bands, fresh, state.earlier)
        count_noise = at.expected_weight / COUNT_SHARE
        deviation = beside_count(noise, count_noise) if quantile else noise
        noised = jax.tree.map(lambda s, n: s + deviation * n, total.delta, correlated)
        mean = trees.scale(state.bound / at.expected_weight, noised)
        count = total.unclipped + count_noise * jax.random.normal(jax.random.fold_in(at.key, 1), (), jnp.float32)
        share = 0.5 + count / at.expected_weight
        bound = state.bound * jnp.exp(-RATE * (share - quantile)) if quantile else state.bound
        # Not the weight and number of those who came: the server's step may depend on nothing that is not noised.
        expected = at.expected_weight / at.total_weight
        aggregate = Aggregate(mean, (), at.expected_weight, at.expected_weight, expected)
        return aggregate, state._replace(bound=bound, earlier=earlier)

    return Reduce("private sum", zero, add, finish, init=init, linear=True)


def beside_count(noise: Any, count_noise: Any) -> Any:
    """Returns the noise multiplier of the sum with which it and the count spend together what `noise` alone spends.

    Each client moves the count by a half (Andrew et al. 2021, theorem 1). NaN where the count alone spends more.
    """
    return (noise**-2.0 - (2.0 * count_noise) ** -2.0) ** -0.5


def normal_like(key: jax.Array, tree: PyTree) -> PyTree:
    """Returns standard normal float32 values in the shapes of `tree`, each leaf by a key of its own."""
    leaves = jax.tree.leaves(tree)
    each = keys.fold_in_each(key, jnp.arange(len(leaves)))
    normal = [jax.random.normal(k, leaf.shape, jnp.float32) for k, leaf in zip(each, leaves)]
    return jax.tree.unflatten(jax.tree.structure(tree), normal)
