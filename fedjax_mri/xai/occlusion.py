"""Occlusion: how far the score falls when a square is hidden (Zeiler and Fergus 2014)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.baseline import Baseline, baseline
from fedjax_mri.xai.method import Method, Scores, target_logit


@dataclass(frozen=True)
class Occlusion:
    """A square that moves over the image; a pixel's value is the mean fall over the squares that hide it."""

    side: float = 0.125  # of the square, as a share of the image's shorter side
    moves: int = 2  # in which the square goes its own side
    baseline: Baseline = "mean"  # what the square shows

    def build(self) -> Method:
        """Returns the method, which raises UserError if there is no such baseline.

        Building it raises UserError unless 0 < side <= 1, and if there is less than 1 move.
        """
        if not 0 < self.side <= 1 or self.moves < 1:
            raise UserError(f"side={self.side}, moves={self.moves}: give a share in (0, 1] and 1 move or more")

        def method(scores: Scores, x: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
            hidden, before = baseline(self.baseline, x, key), target_logit(scores, x, target)
            side = max(1, round(self.side * min(x.shape[1:3])))

            def add(sums: tuple[jax.Array, jax.Array], corner: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
                square = _square(x.shape[1:3], corner, side)
                fall = before - target_logit(scores, jnp.where(square[None, :, :, None], hidden, x), target)
                shown = square[None].astype(x.dtype)
                return (sums[0] + fall[:, None, None] * shown, sums[1] + shown), None

            empty = jnp.zeros(x.shape[:3], x.dtype), jnp.zeros((1, *x.shape[1:3]), x.dtype)
            corners = _corners(x.shape[1:3], side, max(1, side // self.moves))
            (total, count), _ = jax.lax.scan(add, empty, jnp.asarray(corners))
            return total / count

        return method


def _corners(size: tuple[int, ...], side: int, stride: int) -> np.ndarray:
    """Returns the upper left corners [n, 2] of squares; the last square of a row or column ends with the image."""
    rows, columns = (np.append(np.arange(0, length - side, stride), length - side) for length in size)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def _square(size: tuple[int, ...], corner: jax.Array, side: int) -> jax.Array:
    """Returns whether each pixel [H, W] lies in the square."""
    rows, columns = (jnp.arange(length) - start for length, start in zip(size, corner))
    return ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))[None, :]
