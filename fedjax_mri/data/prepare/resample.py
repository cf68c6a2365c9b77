"""Scans on other grids: of a spacing in mm, of a side in pixels, or another scan's."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.files import resample
from fedjax_mri.data.prepare.register import Rigid, transform_points
from fedjax_mri.data.prepare.smooth import sample

Spacing = tuple[float, ...]  # mm between slices, rows and columns


def to_spacing(voxels: np.ndarray, spacing: Spacing, wanted: Spacing) -> tuple[np.ndarray, Spacing]:
    """Returns a volume [D, H, W] at about the wanted spacing, and the spacing that it has.

    It is resampled linearly, and smoothed when shrinking.
    """
    shape = tuple(max(1, round(size * own / to)) for size, own, to in zip(voxels.shape, spacing, wanted))
    made = jax.image.resize(jnp.asarray(voxels), shape, "linear", antialias=True)
    return np.asarray(made), tuple(size * own / new for size, own, new in zip(voxels.shape, spacing, shape))


def to_size(voxels: np.ndarray, spacing: Spacing, side: int, fill: float) -> tuple[np.ndarray, Spacing]:
    """Returns slices [D, H, W] as squares of that side, proportions in mm kept and the rest filled; and the spacing."""
    pixel = (spacing[1], spacing[2])
    made = np.stack([resample.fit(one, (side, side), fill, pixel) for one in voxels])
    step = max(size * own for size, own in zip(voxels.shape[1:], pixel)) / side
    return made, (spacing[0], step, step)


def onto(moving: np.ndarray, spacing: Spacing, rigid: Rigid, shape: tuple[int, ...], grid: Spacing, fill: float):
    """Returns a registered image on the fixed one's grid of that shape and spacing, linear.

    It is `fill` where the image has no voxels.
    """
    axes = [jnp.arange(size, dtype=jnp.float32) * step for size, step in zip(shape, grid)]
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1)
    there = transform_points(rigid, points) / jnp.broadcast_to(jnp.asarray(spacing, jnp.float32), points.shape)
    return np.asarray(sample(jnp.asarray(moving), there, "constant", fill))
