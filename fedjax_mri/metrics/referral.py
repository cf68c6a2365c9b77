"""Which cases a person should see: the least confident first (El-Yaniv and Wiener 2010, selective prediction)."""

import jax
import jax.numpy as jnp
import numpy as np


def curve(confidence: jax.Array, correct: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Share referred, and accuracy on the rest, each [n], from none referred to all but one.

    confidence [n], correct bool [n]. Cases of the same confidence are taken in order; thresholds below do not part
    them.
    """
    order = jnp.argsort(-confidence)
    kept = jnp.arange(1, len(order) + 1, dtype=jnp.float32)
    accuracy = jnp.cumsum(correct[order].astype(jnp.float32)) / kept
    return 1 - kept[::-1] / len(order), accuracy[::-1]


def threshold(confidence: np.ndarray, correct: np.ndarray, accuracy: float) -> float:
    """The least confidence from which on predictions reach `accuracy` on validation data; infinite where none does.

    Those below it are referred. Chosen on the examples it is told by, it is a little too low for few of them.
    """
    levels = np.unique(confidence)
    reach = [np.mean(np.asarray(correct)[np.asarray(confidence) >= level]) >= accuracy for level in levels]
    return float(levels[np.argmax(reach)]) if any(reach) else float("inf")


def area(confidence: jax.Array, correct: jax.Array) -> jax.Array:
    """Mean error over all shares referred, []: lower is better (Geifman et al. 2019, AURC)."""
    return 1 - curve(confidence, correct)[1].mean()
