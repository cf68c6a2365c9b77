"""Temperature scaling: one number that calibrates confidences (Guo et al. 2017, section 4.2).

Logits may be given as logarithms of probabilities: softmax does not see the difference. Predictions stay as they are.
"""

import jax
import jax.numpy as jnp

COLDEST, HOTTEST = 0.02, 50.0
HALVINGS = 40  # of the interval of log temperatures: to float32's last digits


def fit(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the temperature of least negative log likelihood on validation data: logits [n, C], int labels [n] -> [].

    The likelihood is convex in 1 / T, and its slope there is the mean of E[logit] - logit of the truth: halved, not
    descended. Where predictions are all right or none better than chance, the end of 0.02..50 is the answer.
    """
    logits = logits.astype(jnp.float32)
    truth = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]

    def too_cold(log_temperature: jax.Array) -> jax.Array:
        chances = jax.nn.softmax(logits / jnp.exp(log_temperature))
        return ((chances * logits).sum(1) - truth).mean() > 0

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        cold = too_cold(middle)
        return jnp.where(cold, middle, low), jnp.where(cold, high, middle)

    ends = jnp.log(jnp.float32(COLDEST)), jnp.log(jnp.float32(HOTTEST))
    return jnp.exp(sum(jax.lax.fori_loop(0, HALVINGS, halve, ends), start=jnp.float32(0)) / 2)


def apply(logits: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Returns the probabilities [..., C] of logits at that temperature."""
    return jax.nn.softmax(logits / jnp.asarray(temperature, logits.dtype))


def logits(probabilities: jax.Array) -> jax.Array:
    """Returns logits [..., C] that give these probabilities; a probability of 0 counts as float32's smallest number."""
    return jnp.log(jnp.maximum(probabilities, jnp.finfo(jnp.float32).tiny))
