"""No attack: the default."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Off:
    """Settings of a run in which every client is honest."""

    def build(self, classes: int) -> None:
        """Returns None."""
        return None
