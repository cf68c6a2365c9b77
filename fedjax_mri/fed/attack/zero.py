"""A client whose update is lost on its way and arrives as zeros."""

from dataclasses import dataclass

from fedjax_mri.core import trees
from fedjax_mri.fed.attack.contract import Attack, Marked


@dataclass(frozen=True)
class Zero(Marked):
    """Settings of marked clients that send zeros."""

    def build(self, classes: int) -> Attack:
        """Returns the attack."""
        return Attack("zero", own=lambda delta, key: trees.zeros_like(delta))
