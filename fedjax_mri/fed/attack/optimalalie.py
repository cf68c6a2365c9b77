"""A little is enough with the number of standard deviations that does most harm to the rule in force."""

from dataclasses import dataclass

import jax.numpy as jnp

from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, Attackers, AttackerView
from fedjax_mri.fed.attack.linesearch import furthest
from fedjax_mri.fed.uplink.contract import PyTree, State


@dataclass(frozen=True)
class OptimalALIE(Attackers):
    """Settings of attackers that send the honest mean plus the worst multiple of the standard deviation."""

    def build(self, classes: int) -> Attack:
        """Returns the attack."""

        def craft(seen: AttackerView, state: State) -> tuple[PyTree, State]:
            parts = jnp.append(seen.honest / jnp.maximum(seen.honest.sum(), 1.0), 0.0)
            return furthest(seen, honest.mean(seen), parts, honest.std(seen)), state

        return Attack("optimalalie", craft=craft)
