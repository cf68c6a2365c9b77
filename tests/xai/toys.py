"""Networks of a few numbers, written without the package's layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def params(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = {"first": (3, 3, 1, 4), "second": (3, 3, 4, 4), "dense": (4, 3), "bias": (3,)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def features(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.relu(conv(jax.nn.relu(conv(x, params["first"])), params["second"]))


def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Two convolutions, a global mean, logits with a bias: [B, 3]."""
    return features(params, x).mean((1, 2)) @ params["dense"] + params["bias"][None]


def images(count: int = 2, side: int = 8, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, side, side, 1)), jnp.float32)


def explain(
    settings: Any, scores: Callable[[jax.Array], jax.Array], x: jax.Array, target: jax.Array, key: jax.Array
) -> jax.Array:
    """The map, compiled: one operation after another takes longer."""
    return jax.jit(lambda x: settings.build()(scores, x, target, key))(x)
