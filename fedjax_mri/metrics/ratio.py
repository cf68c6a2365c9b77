"""Division of sums by their weights."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.jit, inline=True)  # outside a program it is one, and within another part of that
def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns numerator / denominator, nan where the denominator is not above 0; safe to differentiate."""
    numerator, denominator = jnp.asarray(numerator), jnp.asarray(denominator)
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1.0), jnp.nan)
