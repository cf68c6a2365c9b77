"""The stage that compresses updates, with or without error feedback.

The change of the parameters is compressed. Statistics, such as running variances, and what an algorithm sends besides
travel as they are: noise could make a variance negative, and control variates must agree with the server's sum.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.compressor import Compressor, contractive, decoded, message_bytes
from fedjax_mri.fed.uplink.contract import (
    Notes,
    PyTree,
    RoundContext,
    Sender,
    SimulationParts,
    Stage,
    Update,
    same_bytes,
)
from fedjax_mri.fed.uplink.stages.clip import NonfiniteCount, zeroed_unless
from fedjax_mri.tasks.task import Model

Feedback = Literal["none", "ef", "ef21"]


class Memory(NamedTuple):
    """What a client keeps; absent clients keep theirs."""

    nonfinite: NonfiniteCount
    kept: PyTree  # float32, "ef": what it has not sent yet; "ef21": what the server has of it; "none": ()


def compressed(compressor: Compressor, feedback: Feedback = "none") -> Stage:
    """Returns the stage that sends each client's change as a message of `compressor`.

    "ef" adds what was left out to the client's next change (Seide et al. 2014; Karimireddy et al. 2019, arXiv
    1901.09847). "ef21" sends the difference between the change and what the server has of this client, and the server
    adds it to that (Richtarik et al. 2021, arXiv 2106.05203). A change that is not finite is counted; zeros are sent
    in its place, and what the client keeps stays as it was.
    """
    if feedback != "none":
        compressor = contractive(compressor)

    def init_client(sent: Update) -> Memory:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), sent.delta.params)
        kept = () if feedback == "none" else zeros
        return Memory(NonfiniteCount(jnp.float32(0)), kept)

    def client(update: Update, memory: Memory, sender: Sender) -> tuple[Update, Memory, Notes]:
        params = update.delta.params
        if not jax.tree.leaves(params):  # clients share nothing
            return update, memory, {}
        wanted = target(feedback, params, memory.kept)
        arrived = decoded(compressor, wanted, sender.key, sender.round)
        left = trees.subtract(wanted, arrived)
        server = trees.add(memory.kept, arrived) if feedback == "ef21" else arrived
        kept = {"none": (), "ef": left, "ef21": server}[feedback]
        finite = jnp.isfinite(trees.norm(update.delta)) & jnp.isfinite(trees.norm(wanted))
        sent = update.delta._replace(params=jax.tree.map(lambda new, old: new.astype(old.dtype), server, params))
        (delta, auxiliary), count, nonfinite = zeroed_unless(finite, (sent, update.auxiliary), memory.nonfinite)
        error = jnp.square(trees.norm(left) / jnp.maximum(trees.norm(wanted), 1e-12))
        notes = {"error": jnp.where(finite, error, 0.0), "nonfinite": nonfinite}
        after = Memory(count, trees.select(finite, kept, memory.kept))
        return update._replace(delta=delta, auxiliary=auxiliary), after, notes

    return Stage(
        compressor.name,
        init_client=init_client,
        client=client,
        linear=compressor.linear and feedback != "ef21",
        wire=lambda sent, nbytes: (
            message_bytes(compressor, sent.delta.params) + trees.nbytes((sent.delta.carry, sent.auxiliary))
        ),
        check_compatible=partial(check_compatible, compressor),
    )


def target(feedback: Feedback, params: PyTree, kept: PyTree) -> PyTree:
    """Returns what a client would send if it could send all: float32, in the shapes of `params`."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    if feedback == "none":
        return params
    return trees.add(params, kept) if feedback == "ef" else trees.subtract(params, kept)


def check_compatible(compressor: Compressor, parts: SimulationParts) -> None:
    """Raises UserError if an update is encoded twice, or needed whole, or a rule gives zeros for sparse updates."""
    encoders = [stage.name for stage in parts.uplink.stages.parts or () if stage.wire is not same_bytes]
    if len(encoders) > 1:
        raise UserError(f"uplink.stages: {' and '.join(encoders)} each encode the update; choose one of them")
    if parts.algorithm.member is not None:
        raise UserError(
            f"uplink.stages {compressor.name}: an ensemble needs each client's model as it is; leave it out, or choose "
            "another algorithm, such as fedavg"
        )
    if compressor.sparse and not parts.uplink.reduce.linear and loses_single_coordinates(parts):
        raise UserError(
            f"uplink.stages {compressor.name}: hospitals send different coordinates, for which the reduction "
            f"{parts.uplink.reduce.name} gives zeros; choose a compressor that sends all, such as drive or scaledsign, "
            "one that sends the same for all, such as randk with common=true, or --fed.uplink.reduce mean"
        )


def loses_single_coordinates(parts: SimulationParts) -> bool:
    """Returns whether the reduction gives zeros when each client of a cohort sends another coordinate, as a median."""
    reduce, cohort_size = parts.uplink.reduce, parts.sampler.cohort_size()

    @jax.jit
    def reduced() -> jax.Array:
        rows = Update(Model({"w": jnp.eye(cohort_size)}, {}), (), jnp.ones(cohort_size))
        sent = jax.tree.map(lambda leaf: leaf[0], rows)
        total = reduce.add(reduce.zero(sent, cohort_size), rows, jnp.arange(cohort_size, dtype=jnp.int32))
        at = RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(cohort_size), jnp.float32(cohort_size))
        return reduce.finish(total, reduce.init(sent), at)[0].delta.params["w"]

    return cohort_size > 2 and not reduced().any()
