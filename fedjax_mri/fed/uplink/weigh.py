"""Weights of clients' updates, before any stage."""

import jax
import jax.numpy as jnp


def by_examples(examples: jax.Array) -> jax.Array:
    """Returns the number of examples as the weight (McMahan et al. 2017, arXiv 1602.05629)."""
    return examples


def uniformly(examples: jax.Array) -> jax.Array:
    """Returns weight 1 for each client that has examples, and 0 otherwise."""
    return jnp.sign(examples)
