"""Sign flip: the update points away from where the client's own training led.

Li, Xu, Chen, Giannakis, Ling: RSA, AAAI 2019 (arXiv 1811.03761).
"""

from dataclasses import dataclass

from fedjax_mri.core import checks, trees
from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class SignFlip(Attackers):
    """Settings of attackers that send the negative of their update."""

    factor: float = 1.0  # multiplies it as well

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError unless the factor is positive."""
        checks.positive("attack.factor", self.factor)
        return Attack("signflip", send=lambda delta, key: trees.scale(-self.factor, delta))
