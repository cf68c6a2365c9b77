"""A client whose training has diverged: it sends no finite value."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class NotFinite(Attackers):
    """Settings of attackers that send NaN or infinity in place of each value."""

    value: Literal["nan", "inf"] = "nan"

    def build(self, classes: int) -> Attack:
        """Returns the attack."""
        value = float(self.value)
        return Attack("notfinite", send=lambda delta, key: jax.tree.map(lambda leaf: jnp.full_like(leaf, value), delta))
