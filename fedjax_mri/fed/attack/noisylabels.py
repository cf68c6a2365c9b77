"""Noisy labels: a hospital whose readers are often wrong.

Each wrong label is any other class, and stays the example's. `LabelNoise` of data/shift.py gives each site a rate of
its own instead.
"""

from dataclasses import dataclass

import jax

from fedjax_mri.core import checks
from fedjax_mri.data.shift import label_chances
from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class NoisyLabels(Attackers):
    """Settings of attackers some of whose labels are wrong."""

    rate: float = 0.5  # share of their examples

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError unless the rate is a share."""
        checks.share("attack.rate", self.rate)

        def mistake(batch: dict, keys: jax.Array) -> dict:  # type: ignore[type-arg]
            _, other = jax.vmap(lambda key: label_chances(key, classes))(keys)
            return {**batch, "label": (batch["label"] + other.astype(batch["label"].dtype)) % classes}

        return Attack("noisylabels", mistake, ("label",), self.rate)
