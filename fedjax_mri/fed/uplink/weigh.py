"""How much each client's update counts, before any stage sees it."""

import jax
import jax.numpy as jnp


def by_examples(examples: jax.Array) -> jax.Array:
    """Each client counts by its number of examples (McMahan et al. 2017, arXiv 1602.05629)."""
    return examples


def uniformly(examples: jax.Array) -> jax.Array:
    """Each client that has examples counts the same."""
    return jnp.sign(examples)
