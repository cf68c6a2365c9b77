"""Transport in fewer bits a value: bfloat16, or whole numbers of 8 bits."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.compress import compressed
from fedjax_mri.fed.uplink.compressor import Compressor, on_vector
from fedjax_mri.fed.uplink.contract import Stage
from fedjax_mri.fed.uplink.fields import Integers, Message
from fedjax_mri.fed.uplink.stages.qsgd import stochastic


@dataclass(frozen=True)
class Cast:
    """Settings of transport: to the nearest bfloat16, or to 8 bits at random, so that the mean over draws is right."""

    to: Literal["bf16", "int8"] = "bf16"
    bucket: int = 512  # for int8: values that share a largest magnitude; 0: all

    def build(self) -> Stage:
        """Returns the stage. Raises UserError as `compressor` does."""
        return compressed(self.compressor())

    def compressor(self) -> Compressor:
        """Returns the compressor. Raises UserError if `bucket` is negative."""
        if self.to == "int8":
            return stochastic("cast", 127, self.bucket, lambda rows: jnp.max(jnp.abs(rows), 1))
        return on_vector("cast", _encode, _decode, lambda values: (Integers(values, 16),), contraction=True)


def _encode(vector: jax.Array, key: jax.Array, round: jax.Array) -> Message:
    return (jax.lax.bitcast_convert_type(vector.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32),)


def _decode(message: Message, values: int) -> jax.Array:
    return jax.lax.bitcast_convert_type(message[0].astype(jnp.uint16), jnp.bfloat16).astype(jnp.float32)
