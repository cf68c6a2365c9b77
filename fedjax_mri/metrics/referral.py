"""Which cases are referred to a person: the least confident first (El-Yaniv and Wiener 2010, selective prediction)."""

import jax
import jax.numpy as jnp
import numpy as np


def curve(confidence: jax.Array, correct: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the share of cases referred and the accuracy on the rest, each [n], from none referred to all but one.

    confidence [n], correct bool [n]. Cases of the same confidence are referred one by one, in order.
    """
    order = jnp.argsort(-confidence)
    kept = jnp.arange(1, len(order) + 1, dtype=jnp.float32)
    accuracy = jnp.cumsum(correct[order].astype(jnp.float32)) / kept
    return 1 - kept[::-1] / len(order), accuracy[::-1]


def threshold(confidence: np.ndarray, correct: np.ndarray, accuracy: float) -> float:
    """Returns the lowest confidence such that predictions of it or more reach `accuracy`; infinite where none does.

    Cases below it are referred. As it is chosen on the examples given, it is a little too low where these are few.
    """
    levels = np.unique(confidence)
    reach = [np.mean(np.asarray(correct)[np.asarray(confidence) >= level]) >= accuracy for level in levels]
    return float(levels[np.argmax(reach)]) if any(reach) else float("inf")


def area(confidence: jax.Array, correct: jax.Array) -> jax.Array:
    """Returns the mean error over all shares referred, []: lower is better (Geifman et al. 2019, AURC)."""
    return 1 - curve(confidence, correct)[1].mean()
