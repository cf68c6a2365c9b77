"""A little is enough: an update so near to the mean of the honest ones that rules cannot tell it from them.

Baruch, Baruch, Goldberg: A Little Is Enough: Circumventing Defenses For Distributed Learning, NeurIPS 2019 (arXiv
1902.06156), algorithm 3.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, Attackers, AttackerView
from fedjax_mri.fed.uplink.contract import PyTree, State


@dataclass(frozen=True)
class ALIE(Attackers):
    """Settings of attackers that send the honest mean plus z standard deviations of each coordinate."""

    z: float = 0.0  # 0: the paper's, by the numbers of honest clients and attackers; it may be 0 for few clients

    def build(self, classes: int) -> Attack:
        """Returns the attack."""

        def craft(seen: AttackerView, state: State) -> tuple[PyTree, State]:
            z = jnp.where(self.z == 0, most_deviations(seen.honest.sum(), seen.attacking.sum()), self.z)
            return honest.moved(honest.mean(seen), z, honest.std(seen)), state

        return Attack("alie", craft=craft)


def most_deviations(honest: jax.Array, attacking: jax.Array) -> jax.Array:
    """Returns z, such that enough of the honest clients, float32 [], lie further from their mean than the attackers.

    With n clients, f of them attackers, s = floor(n / 2 + 1) - f honest ones are needed for a majority, and z is where
    the cumulative normal distribution is (n - f - s) / (n - f); at least 0.
    """
    needed = jnp.maximum(jnp.floor((honest + attacking) / 2 + 1) - attacking, 1.0)
    share = jnp.maximum(honest - needed, 0.0) / jnp.maximum(honest, 1.0)
    return jnp.maximum(jax.scipy.special.ndtri(share), 0.0)
