"""Dropout (Srivastava et al. 2014). It is off without a key; with one, a network's output is a sample."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError, is_concrete


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Returns x with each value set to 0 with probability `rate` and the others scaled up to the same mean.

    Without a key it returns x.
    """
    return _drop(x, rate, key, x.shape)


def drop_path(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Returns x [B, ...] with whole examples dropped in the same way: stochastic depth (Huang et al. 2016)."""
    return _drop(x, rate, key, (x.shape[0], *[1] * (x.ndim - 1)))


def _drop(x: jax.Array, rate: float, key: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    if key is None or (is_concrete(rate) and not rate):
        return x
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def check_rates(rates: Mapping[str, float]) -> None:
    """Raises UserError, naming the field, where a rate is below 0, or 1 or more."""
    for field, rate in rates.items():
        if is_concrete(rate) and not 0 <= rate < 1:
            raise UserError(f"{field}={rate}: give 0 or more, and less than 1")
