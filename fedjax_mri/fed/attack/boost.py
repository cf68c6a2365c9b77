"""Model replacement: the update is boosted, so that after averaging the model is nearly the attacker's.

Bagdasaryan, Veit, Hua, Estrin, Shmatikov: How To Backdoor Federated Learning, AISTATS 2020 (arXiv 1807.00459), equation
3: a factor of n / eta, clients by server rate, replaces the model.
"""

from dataclasses import dataclass

from fedjax_mri.core import checks, trees
from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class Boost(Attackers):
    """Settings of attackers that send their update times a factor."""

    factor: float = 10.0

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError unless the factor is positive."""
        checks.positive("attack.factor", self.factor)
        return Attack("boost", send=lambda delta, key: trees.scale(self.factor, delta))
