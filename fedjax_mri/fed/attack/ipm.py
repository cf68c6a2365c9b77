"""Inner-product manipulation: the mean of the honest updates, negated.

Xie, Koyejo, Gupta: Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation, UAI 2019 (arXiv
1903.03936).
"""

from dataclasses import dataclass

from fedjax_mri.core import checks, trees
from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class IPM(Attackers):
    """Settings of attackers that send the honest mean times a negative factor."""

    factor: float = 2.0  # without its sign; small: it hides among honest updates; above (n - f) / f: it reverses a mean

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError unless the factor is positive."""
        checks.positive("attack.factor", self.factor)
        return Attack("ipm", craft=lambda seen, state: (trees.scale(-self.factor, honest.mean(seen)), state))
