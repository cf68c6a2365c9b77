"""Canaries among the patients of one hospital: they show how much its noisy gradients give away, in the run itself.

Each canary is a patient whose gradient has one large entry, of which each canary has another. Half of them, by the toss
of a coin, come to the hospital's local steps as real patients do, and pass the same clip, sum and noise. An observer
who knows all other gradients scores them, see `canaries`. What they add is left out of the gradient that the hospital
takes, so that the model is that of a run without them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.data.contract import Batch
from fedjax_mri.fed.privacy.canaries import SIZE, entries, likelier, new_canaries
from fedjax_mri.fed.privacy.per_patient import CLIENT, RATE, Watch, clipped
from fedjax_mri.fed.uplink.contract import Aggregate, RoundContext, Stage, State, Update
from fedjax_mri.tasks.task import Params


def watch_hospital(hospital: int, count: int, clip: float, noise: Any) -> Watch:
    """Returns a function that gives the scores float32 [K] of the canaries after a local step of this hospital.

    At other hospitals it gives zeros. clip: bound on the norm of a patient's gradient. noise: noise multiplier. When
    the run is built, `new_canaries` raises UserError where the model has fewer parameters than there are canaries.
    """

    def scores(exact: Params, noised: Params, batch: Batch, key: jax.Array) -> jax.Array:
        canaries, rate = new_canaries(count, trees.count(exact)), batch[RATE][0]
        came = canaries.inside & jax.random.bernoulli(key, rate, (count,))
        own = jnp.where(came, clipped(jnp.float32(SIZE * clip), clip), 0.0)
        seen = (entries(noised, canaries.entry) - entries(exact, canaries.entry) + own) / clip
        return jnp.where(batch[CLIENT][0] == hospital, likelier(seen, rate, noise), 0.0)

    return scores


def with_canary_patients(guard: Stage, count: int) -> Stage:
    """Returns the stage of a run with privacy of patients, whose state at the server is so many canaries."""

    def init(sent: Update) -> State:
        return new_canaries(count, trees.count(sent.delta.params))

    def server(aggregate: Aggregate, state: State, at: RoundContext) -> tuple[Aggregate, State]:
        seen = at.audit_sums if jax.tree.leaves(at.audit_sums) else jnp.zeros_like(state.score)
        return aggregate, state._replace(score=state.score + seen)

    return guard._replace(init=init, server=server)
