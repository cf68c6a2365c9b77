"""Duplicated patients: a hospital that counts more than it knows, since it holds the same patients several times."""

from dataclasses import dataclass

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class Duplicates(Attackers):
    """Settings of attackers whose examples are copies of the first few; their weight is that of all."""

    copies: int = 10  # of each example

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError unless there are copies."""
        if self.copies < 1:
            raise UserError(f"attack.copies={self.copies}: must be 1 or more")
        return Attack("duplicates", repeats=self.copies)
