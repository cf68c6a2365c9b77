"""A client whose update is lost on its way and arrives as zeros."""

from dataclasses import dataclass

from fedjax_mri.core import trees
from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class Zero(Attackers):
    """Settings of attackers that send zeros."""

    def build(self, classes: int) -> Attack:
        """Returns the attack."""
        return Attack("zero", send=lambda delta, key: trees.zeros_like(delta))
