"""Top-k: the largest values of an update (Stich, Cordonnier, Jaggi: Sparsified SGD with Memory, NeurIPS 2018)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedjax_mri.core.checks import positive_share
from fedjax_mri.fed.uplink.compress import Feedback, compressed
from fedjax_mri.fed.uplink.compressor import Compressor, on_vector, share_of
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.fields import Floats, Message, Subset


@dataclass(frozen=True)
class TopK:
    """Settings of top-k: the largest values of the whole update are sent."""

    share: float = 0.05  # of the values that are sent
    feedback: Feedback = "ef"

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor(), self.feedback)

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError unless 0 < share <= 1."""
        positive_share("uplink.stages topk: share", self.share)
        return on_vector("topk", self._encode, _decode, self._fields, contraction=True, sparse=True)

    def _encode(self, vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
        places = jnp.sort(jax.lax.top_k(jnp.abs(vector), share_of(self.share, len(vector)))[1])
        return places.astype(jnp.uint32), vector[places]

    def _fields(self, values: int) -> tuple[Subset, Floats]:
        count = share_of(self.share, values)
        return Subset(count, values), Floats(count)


def _decode(message: Message, values: int) -> jax.Array:
    return jnp.zeros(values).at[message[0]].set(message[1])
