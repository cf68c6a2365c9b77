"""The downlink: a compressed broadcast.

Clients hold a copy of the server's parameters, and all of them are sent what the copy lacks, compressed. What a message
leaves out stays in the difference, so that the copy follows the server and does not drift (EF21-P: Gruntkowska,
Tyurin, Richtarik 2023, arXiv 2209.15218). Local training starts from the copy. Statistics, and what an algorithm
broadcasts besides, travel as they are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.algorithm import Algorithm, PyTree, ServerState
from fedjax_mri.fed.sampling import Sampler
from fedjax_mri.fed.uplink.compressor import Compressor, contractive, decoded, message_bytes
from fedjax_mri.fed.uplink.contract import Aggregate

SEED = 19  # of the server's messages; clients' keys come from the root of the run


class Copied(NamedTuple):
    """What the server keeps of a compressed downlink, as the algorithm's `extra`."""

    algorithm: PyTree  # the algorithm's own
    copy: PyTree  # the parameters that clients hold
    sent: jax.Array  # int32 [], messages so far


def with_downlink(algorithm: Algorithm, settings: Any) -> Algorithm:
    """Returns `algorithm` with broadcasts compressed as `settings` of a stage of the uplink say; None: as it is.

    Raises UserError if the stage compresses nothing, or the algorithm remembers several broadcasts.
    """
    if settings is None:
        return algorithm
    if not hasattr(settings, "compressor"):
        name = type(settings).__name__.lower()
        raise UserError(f"downlink={name}: does not compress; choose one that does, such as --fed.downlink topk")
    if algorithm.max_staleness:
        raise UserError("downlink: this algorithm remembers several broadcasts; choose another, such as fedavg")
    return compressed_broadcast(algorithm, contractive(settings.compressor()))


def compressed_broadcast(algorithm: Algorithm, compressor: Compressor) -> Algorithm:
    """Returns `algorithm` with broadcasts compressed by `compressor`."""

    def init(model: PyTree) -> ServerState:
        first = algorithm.init(model)
        return ServerState(first.model, Copied(first.extra, model.params, jnp.int32(0)))

    def own(server: ServerState) -> ServerState:
        return server._replace(extra=server.extra.algorithm)

    def server(server: ServerState, aggregate: Aggregate) -> ServerState:
        moved, (_, copy, sent) = algorithm.server(own(server), aggregate), server.extra
        if jax.tree.leaves(copy):
            key = jax.random.fold_in(jax.random.key(SEED), sent)
            missing = trees.subtract(moved.model.params, copy)
            copy = trees.add(copy, decoded(compressor, missing, key, sent))
        return moved._replace(extra=Copied(moved.extra, copy, sent + 1))

    def broadcast(server: ServerState, staleness: jax.Array) -> ServerState:
        found = algorithm.broadcast(own(server), staleness)
        return found._replace(model=found.model._replace(params=server.extra.copy))

    def wire(sent: ServerState) -> int:
        return message_bytes(compressor, sent.model.params) + trees.nbytes((sent.model.carry, sent.extra))

    return algorithm._replace(
        init=init,
        server=server,
        broadcast=broadcast,
        statistics=lambda server, aggregate: algorithm.statistics(own(server), aggregate),
        wire=wire,
    )


def check_downlink(settings: Any, sampler: Sampler, conditions: Any) -> None:
    """Raises UserError if a client that trains may have missed a broadcast of differences.

    `settings` are those of the downlink, and `conditions` those of the simulated world.
    """
    if settings is None:
        return
    always = sampler.law in ("everyone", "all but one")
    if not always and not (sampler.law in ("fixed", "poisson", "cyclic") and sampler.rate == 1):
        raise UserError(
            f"downlink: broadcasts tell what has changed, and clients that are not in a cohort ({sampler.law} "
            "sampling) would miss it; choose --fed.sampling everyone, or no --fed.downlink"
        )
    lost = getattr(conditions, "lost_before", 0.0)
    if not is_concrete(lost) or lost > 0:
        raise UserError(
            "downlink: broadcasts tell what has changed, and clients that are lost before they begin would miss it; "
            "choose --conditions.lost_before 0, or no --fed.downlink"
        )
