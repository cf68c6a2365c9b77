"""The head of every classifier here: norm, dropout, one dense layer to the logits (system A's, with norm="batch").

The L2 penalty of a dense layer is a loss, not a layer: `task.weight_decay` on `task.decayed` = ("logits/kernel",).
"""

from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.nets.dropout import check_rates, dropout
from fedjax_mri.nets.layers import Norm, NormKind, check_groups


@dataclass(frozen=True)
class HeadSettings:
    """What features pass on their way to the logits."""

    norm: NormKind = "none"
    dropout: float = 0.0  # share of features dropped in training

    def __post_init__(self) -> None:
        check_rates({"network.head.dropout": self.dropout})


PLAIN = HeadSettings()


class Head(nnx.Linear):
    """A dense layer whose inputs are normed and thinned first; its own kernel and bias keep their places."""

    def __init__(self, features: int, classes: int, settings: HeadSettings, rngs: nnx.Rngs) -> None:
        super().__init__(features, classes, rngs=rngs)
        check_groups(f"network.head.norm={settings.norm}, features", (features,), settings.norm)
        self.norm, self.dropout = Norm(features, settings.norm, rngs=rngs), settings.dropout

    def __call__(self, x: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:  # type: ignore[override]
        """x [B, features], weight [B], key (None: nothing dropped) -> logits [B, classes]."""
        x = self.norm(x[:, None, None], weight, train)[:, 0, 0]
        return super().__call__(dropout(x, self.dropout, key))
