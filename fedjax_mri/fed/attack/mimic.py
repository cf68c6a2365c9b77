"""Mimic: all attackers copy one honest client, so that the server hears too much of it.

Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, ICLR 2022 (arXiv 2006.09365),
section 3.2 and appendix B: the one that is copied lies furthest along the direction z in which honest updates differ
most, found by Oja's rule over the rounds. The one that is copied may change from round to round; the authors' code
keeps it after a warm-up.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, Attackers, AttackerView
from fedjax_mri.fed.attack.minmax import products
from fedjax_mri.fed.privacy.mechanism import normal_like
from fedjax_mri.fed.uplink.contract import PyTree, Update


class Direction(NamedTuple):
    """State between rounds: the direction in which honest updates differ most, as it is known so far."""

    round: jax.Array  # float32 []
    z: PyTree  # of norm 1


@dataclass(frozen=True)
class Mimic(Attackers):
    """Settings of attackers that copy an honest one."""

    def build(self, classes: int) -> Attack:
        """Returns the attack."""
        return Attack("mimic", craft=copy_of_one, init=lambda sent: first_direction(sent, self.seed))


def first_direction(sent: Update, seed: int) -> Direction:
    """Returns a random direction."""
    drawn = normal_like(jax.random.key(seed), sent.delta)
    return Direction(jnp.float32(0), trees.scale(1 / jnp.maximum(trees.norm(drawn), 1e-20), drawn))


def copy_of_one(seen: AttackerView, state: Direction) -> tuple[PyTree, Direction]:
    """Returns the honest update furthest along z, and z after one more step of Oja's rule."""
    gaps, one = honest.centred(seen), jax.tree.map(lambda leaf: leaf[None], state.z)
    along = products(gaps, one)[:, 0]
    change = jax.tree.map(lambda leaf: jnp.tensordot(along, leaf, 1), gaps)
    share = 1 / (1 + state.round)
    z = trees.add(trees.scale(1 - share, state.z), trees.scale(share / jnp.maximum(trees.norm(change), 1e-20), change))
    z = trees.scale(1 / jnp.maximum(trees.norm(z), 1e-20), z)
    scores = jnp.abs(products(gaps, jax.tree.map(lambda leaf: leaf[None], z))[:, 0])
    copied = jnp.argmax(jnp.where(seen.honest > 0, scores, -jnp.inf))
    return trees.take(seen.rows, copied), Direction(state.round + 1, z)
