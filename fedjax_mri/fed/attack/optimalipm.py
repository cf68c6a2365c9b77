"""Inner-product manipulation with the factor that does most harm to the rule in force."""

from dataclasses import dataclass

import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, Attackers, AttackerView
from fedjax_mri.fed.attack.linesearch import furthest
from fedjax_mri.fed.uplink.contract import PyTree, State


@dataclass(frozen=True)
class OptimalIPM(Attackers):
    """Settings of attackers that send the honest mean times the worst negative factor."""

    def build(self, classes: int) -> Attack:
        """Returns the attack."""

        def craft(seen: AttackerView, state: State) -> tuple[PyTree, State]:
            mean = honest.mean(seen)
            zero = jnp.zeros(seen.honest.size + 1).at[-1].set(1.0)
            return furthest(seen, trees.zeros_like(mean), zero, trees.scale(-1.0, mean)), state

        return Attack("optimalipm", craft=craft)
