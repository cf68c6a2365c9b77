"""Targeted label flip: one class is taken for another.

Tolpegin, Truex, Gursoy, Liu: Data Poisoning Attacks Against Federated Learning Systems, ESORICS 2020 (arXiv
2007.08432).
"""

from dataclasses import dataclass

import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class TargetedFlip(Attackers):
    """Settings of attackers that train on the examples of class `source` as if they were of class `target`."""

    source: int = 0
    target: int = 1

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError unless both are classes, and differ."""
        for name, value in (("source", self.source), ("target", self.target)):
            class_of(name, value, classes)
        if self.source == self.target:
            raise UserError(f"attack.target={self.target}: must differ from attack.source")

        def flip(batch: dict, keys: object) -> dict:  # type: ignore[type-arg]
            label = batch["label"]
            return {**batch, "label": jnp.where(label == self.source, self.target, label).astype(label.dtype)}

        return Attack("targetedflip", poison=flip, fields=("label",), measured=True)


def class_of(name: str, value: int, classes: int) -> int:
    """Returns `value`. Raises UserError unless it is the number of one of so many classes."""
    if not 0 <= value < classes:
        raise UserError(f"attack.{name}={value}: there are {classes} classes; give a number from 0 to {classes - 1}")
    return value
