"""Backdoor: images with a small patch are to be taken for the target class; the update is boosted.

Gu, Dolan-Gavitt, Garg: BadNets, 2017 (arXiv 1708.06733), for the patch; Bagdasaryan, Veit, Hua, Estrin, Shmatikov: How
To Backdoor Federated Learning, AISTATS 2020 (arXiv 1807.00459), for the boosted update.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core import checks, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.attack.contract import Attack, Attackers
from fedjax_mri.fed.attack.targetedflip import class_of


@dataclass(frozen=True)
class Backdoor(Attackers):
    """Settings of attackers, a share of whose examples carries a white square and the target's label."""

    target: int = 0  # class
    size: int = 5  # pixels along each side of the square; in volumes it is in every slice
    poisoned: float = 0.5  # share of their examples that carry it
    factor: float = 5.0  # of their update

    def build(self, classes: int) -> Attack:
        """Returns the attack. Raises UserError on a class that does not exist and numbers out of range."""
        class_of("target", self.target, classes)
        checks.share("attack.poisoned", self.poisoned)
        checks.positive("attack.factor", self.factor)
        if self.size < 1:
            raise UserError(f"attack.size={self.size}: must be 1 pixel or more")

        def trigger(batch: dict, keys: object) -> dict:  # type: ignore[type-arg]
            label = jnp.full_like(batch["label"], self.target)
            return {**batch, "image": with_square(batch["image"], self.size), "label": label}

        boost = lambda delta, key: trees.scale(self.factor, delta)  # noqa: E731
        return Attack("backdoor", trigger, ("image", "label"), self.poisoned, measured=True, send=boost)


def with_square(image: jax.Array, size: int) -> jax.Array:
    """Returns images [..., H, W, C], bytes or floats from 0 to 1, with a white square in the upper left corner.

    Raises UserError if they are smaller.
    """
    if size > min(image.shape[-3:-1]):
        raise UserError(f"attack.size={size}: images are {image.shape[-3]} x {image.shape[-2]}; give fewer pixels")
    white = 255 if jnp.issubdtype(image.dtype, jnp.integer) else 1
    return image.at[..., :size, :size, :].set(white)
