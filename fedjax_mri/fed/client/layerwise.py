"""Learning rates by layer, chosen by patterns on the paths of parameters.

Discriminative fine-tuning (Howard and Ruder 2018): early layers of a pretrained network move less than its head.
"""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from fedjax_mri.core import paths


def layerwise(rates: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Returns a transformation that multiplies each update by the factor of the first pattern that matches its path.

    The factor is 1 if no pattern matches. Raises UserError if a pattern matches no parameter.
    """

    def init(params: Any) -> optax.EmptyState:
        paths.check(params, [pattern for pattern, _ in rates], "local.rates")
        return optax.EmptyState()

    def factor(path: Any) -> float:
        return next((factor for pattern, factor in rates if paths.matches(pattern, paths.name(path))), 1.0)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree_util.tree_map_with_path(lambda path, x: factor(path) * x, updates), state

    return optax.GradientTransformation(init, update)
