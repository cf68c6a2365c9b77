"""Momentum of each client, which makes the updates of honest ones more alike than those of single batches.

Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization, ICML 2021 (arXiv 2012.10333): the
update that is sent is decay times the one sent before plus (1 - decay) times the present one.
"""

from dataclasses import dataclass

from fedjax_mri.core import trees
from fedjax_mri.core.checks import fraction
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import (
    Notes,
    PyTree,
    Sender,
    SimulationParts,
    Stage,
    State,
    Update,
    refuse_statistics,
    same_bytes,
)


@dataclass(frozen=True)
class Momentum:
    """Settings of momentum at the clients; the state of a client is the update that it has sent last."""

    decay: float = 0.9

    def build(self) -> Stage:
        """Returns the stage. Raises UserError unless 0 <= decay < 1."""
        fraction("uplink.stages momentum: decay", self.decay)
        init = lambda sent: trees.zeros_like(sent.delta)  # noqa: E731
        return Stage("momentum", init_client=init, client=self._client, check_compatible=check_compatible)

    def _client(self, update: Update, before: PyTree, sender: Sender) -> tuple[Update, State, Notes]:
        delta = trees.add(trees.scale(self.decay, before), trees.scale(1 - self.decay, update.delta))
        return update._replace(delta=delta), delta, {}


def check_compatible(parts: SimulationParts) -> None:
    """Raises UserError after a compressor, and if clients send statistics, which change otherwise than updates."""
    for stage in parts.uplink.stages.parts or ():
        if stage.name == "momentum":
            break
        if stage.wire is not same_bytes:
            raise UserError(
                f"uplink.stages {stage.name} momentum: momentum would add what {stage.name} has left out; put momentum "
                f"first: --fed.uplink.stages momentum {stage.name}"
            )
    refuse_statistics(parts, "uplink.stages momentum", "earlier updates are")
