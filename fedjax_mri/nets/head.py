"""The head of every classifier: a norm, dropout, a dense layer to the logits. With norm="batch" it is system A's.

The L2 penalty of the dense layer is part of the loss: set `task.weight_decay`, and `task.decayed` = ("logits/kernel",).
"""

from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.core import fields
from fedjax_mri.nets.dropout import check_rates, dropout
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.norm import NormKind, check_groups


@dataclass(frozen=True)
class HeadSettings:
    """What a classifier does to its features before the last dense layer."""

    norm: NormKind = "none"
    dropout: float = 0.0  # share of features dropped in training

    def __post_init__(self) -> None:
        fields.check(self, "network.head.")
        check_rates({"network.head.dropout": self.dropout})


class Head(nnx.Linear):
    """A dense layer whose inputs pass a norm and dropout first.

    It is a subclass of the dense layer so that its kernel is "logits/kernel" among the parameters.
    """

    def __init__(self, features: int, classes: int, settings: HeadSettings, layers: Layers) -> None:
        super().__init__(features, classes, rngs=layers.rngs)
        check_groups(f"network.head.norm={settings.norm}, features", (features,), settings.norm)
        self.norm, self.dropout = layers._replace(norm_kind=settings.norm).norm(features), settings.dropout

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None) -> jax.Array:  # type: ignore[override]
        """Maps x [B, features] to logits [B, classes]."""
        x = self.norm(x[:, None, None], present, train)[:, 0, 0]
        return super().__call__(dropout(x, self.dropout, key))
