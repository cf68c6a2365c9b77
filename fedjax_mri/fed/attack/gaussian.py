"""Gaussian updates: random numbers that have nothing to do with the client's examples.

Xie, Koyejo, Gupta: Generalized Byzantine-tolerant SGD, 2018 (arXiv 1802.10116).
"""

from dataclasses import dataclass

import jax

from fedjax_mri.core import checks, trees
from fedjax_mri.fed.attack.contract import Attack, Attackers
from fedjax_mri.fed.privacy.mechanism import normal_like


@dataclass(frozen=True)
class Gaussian(Attackers):
    """Settings of attackers that send normal random numbers around 0, or around their update."""

    sigma: float = 1.0  # standard deviation of each value
    around: bool = False  # whether they are added to the client's own update

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError unless the standard deviation is positive."""
        checks.positive("attack.sigma", self.sigma)

        def noise(delta: object, key: jax.Array) -> object:
            drawn = trees.scale(self.sigma, normal_like(key, delta))
            return trees.add(delta, drawn) if self.around else drawn

        return Attack("gaussian", send=noise)
