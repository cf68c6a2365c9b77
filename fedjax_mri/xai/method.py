"""The signature that all explanation methods share, and the gradient that most of them start from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
# x float32 [B, H, W, C] -> logits [B, K], as in evaluation: no example may change another's.
Scores = Callable[[jax.Array], jax.Array]
# (scores, x [B, H, W, C], target int [B], key) -> map float32 [B, H, W], neither scaled nor clipped. Attributions are
# signed and summed over channels; maps of features (CAM) are 0 or more. Pure: compile, batch and vmap it as you like.
Method = Callable[[Scores, jax.Array, jax.Array, jax.Array], jax.Array]


def compiled(method: Method, apply: Callable[[PyTree, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Returns a function (params, x, target, key) -> map, compiled once for all params.

    `apply(params, x)` gives logits.

    `jax.vmap(..., (0, None, None, None))` of it explains the same images by every client's model.
    """
    return jax.jit(lambda params, x, target, key: method(lambda images: apply(params, images), x, target, key))


def target_logit(scores: Scores, x: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the logit of each example's target, [B]."""
    return jnp.take_along_axis(scores(x), target[:, None], -1)[:, 0]


def gradient(scores: Scores, x: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the gradient of each example's target logit by x [B, ...].

    It takes one backward pass, as examples do not mix.
    """
    return jax.grad(lambda x: target_logit(scores, x, target).sum())(x)
