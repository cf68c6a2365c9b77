"""Learning rates by layer: what of an update is left, by patterns on the path of its parameter.

Discriminative fine-tuning (Howard and Ruder 2018): early layers of a trained network move less than its head.
"""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from fedjax_mri.core import paths


def layerwise(rates: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Updates times the factor of the first pattern that names their parameter; of others 1.

    Raises UserError where a pattern names none.
    """

    def init(params: Any) -> optax.EmptyState:
        paths.check(params, [pattern for pattern, _ in rates], "local.rates")
        return optax.EmptyState()

    def factor(path: Any) -> float:
        return next((factor for pattern, factor in rates if paths.matches(pattern, paths.name(path))), 1.0)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree_util.tree_map_with_path(lambda path, x: factor(path) * x, updates), state

    return optax.GradientTransformation(init, update)
