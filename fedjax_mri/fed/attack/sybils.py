"""Sybils: several identities of one attacker, which all send the same update, learnt on flipped labels.

Fung, Yoon, Beschastnikh: The Limitations of Federated Learning in Sybil Settings, RAID 2020 (arXiv 1808.04866).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.fed.attack.contract import Attack, AttackerView
from fedjax_mri.fed.attack.targetedflip import TargetedFlip
from fedjax_mri.fed.uplink.contract import PyTree, State


@dataclass(frozen=True)
class Sybils(TargetedFlip):
    """Settings of attackers that train on a targeted flip of labels and send the mean of their updates."""

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError as the targeted flip does."""

        def craft(seen: AttackerView, state: State) -> tuple[PyTree, State]:
            share = seen.attacking / jnp.maximum(seen.attacking.sum(), 1.0)
            return jax.tree.map(lambda rows: jnp.tensordot(share, rows, 1), seen.rows), state

        return super().build(classes)._replace(name="sybils", craft=craft)
