"""Rand-k: values at random places, which a seed names (Stich, Cordonnier, Jaggi 2018, NeurIPS, definition 2.1)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.checks import positive_share
from fedjax_mri.core.fields import Seed
from fedjax_mri.fed.client.shuffle import shuffled
from fedjax_mri.fed.uplink.compress import Feedback, compressed
from fedjax_mri.fed.uplink.compressor import Compressor, on_vector, share_of
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.fields import Floats, Integers, Message


@dataclass(frozen=True)
class RandK:
    """Settings of rand-k. Without feedback the values are multiplied by d / k, so that the mean over seeds is right."""

    share: float = 0.05  # of the values that are sent
    common: bool = False  # all clients of a round send the same places, so that a secure sum can be taken of them
    feedback: Feedback = "none"
    seed: Seed = 0  # of common places

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor(), self.feedback)

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError unless 0 < share <= 1."""
        positive_share("uplink.stages randk: share", self.share)
        scaled = self.feedback == "none"
        return on_vector(
            "randk", self._encode, self._decode, self._fields, not scaled, linear=self.common, sparse=not self.common
        )

    def _encode(self, vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
        if self.common:
            key = jax.random.fold_in(jax.random.key(self.seed), round)
        seed = jax.random.bits(key, (), jnp.uint32)
        return seed, vector[self._places(seed, len(vector))]

    def _decode(self, message: Message, values: int) -> jax.Array:
        scale = values / share_of(self.share, values) if self.feedback == "none" else 1.0
        places = self._places(message[0].reshape(()), values)
        return jnp.zeros(values).at[places].set(scale * message[1])

    def _fields(self, values: int) -> tuple[Integers, Floats]:
        return Integers(1, 32), Floats(share_of(self.share, values))

    def _places(self, seed: jax.Array, values: int) -> jax.Array:
        """Returns the places that a seed names, all different."""
        count = jnp.arange(share_of(self.share, values), dtype=jnp.int32)
        return shuffled(jax.random.key(seed), count, jnp.int32(values))
