"""Dropout (Srivastava et al. 2014): what is off without a key, and with one gives samples of a network's output."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError, known


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Each value of x [...] to 0 with probability `rate`, the others scaled up to the same mean; without a key x."""
    return x if key is None or _never(rate) else _thinned(x, rate, key, x.shape)


def drop_path(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Each example of x [B, ...] likewise as a whole: stochastic depth (Huang et al. 2016)."""
    return x if key is None or _never(rate) else _thinned(x, rate, key, (x.shape[0], *[1] * (x.ndim - 1)))


def _never(rate: float) -> bool:
    return known(rate) and not rate


def _thinned(x: jax.Array, rate: float, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def check_rates(rates: Mapping[str, float]) -> None:
    """Raises UserError, naming the field, where a rate is none."""
    for field, rate in rates.items():
        if known(rate) and not 0 <= rate < 1:
            raise UserError(f"{field}={rate}: give 0 or more, and less than 1")
