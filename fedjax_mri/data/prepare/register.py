"""Rigid registration by mutual information, of volumes and slices alike.

Mattes et al. 2003, doi 10.1109/TMI.2003.809072.

Points are in mm. Each image is turned about the centre of its head: a point at p from the fixed image's centre is at
R p + shift from the moving one's. R is the Cayley transform of `turn`, (I - A)^-1 (I + A) for the skew matrix A of
`turn`, which is the tangent of half the angle times the axis; one formula for two and three dimensions.

The search goes from blurred to sharp images. In each level it follows the gradient by Adam, with steps that shrink, on
points drawn anywhere between the voxels: on the grid itself, interpolation would make false maxima.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.data.prepare.smooth import gaussian, sample

BINS = 32  # of each image's histogram
RADIUS = 50.0  # mm; a turn counts as much as the shift of a point at this distance


class Level(NamedTuple):
    """One level of the search."""

    blur: float  # mm, standard deviation
    points: int  # at which the images are compared
    steps: int
    stride: float  # mm, the first step's length


LEVELS = (
    Level(6.0, 4_000, 60, 3.0),
    Level(3.0, 8_000, 60, 1.5),
    Level(1.0, 16_000, 100, 1.0),
    Level(0.5, 50_000, 40, 0.2),
)


class Rigid(NamedTuple):
    """Where the points of a fixed image lie in a moving one; see above."""

    turn: jax.Array  # [1] in two dimensions, [3] in three: tangent of half the angle, times the axis
    shift: jax.Array  # mm, [n]
    fixed_centre: jax.Array  # mm from the first voxel, [n]
    moving_centre: jax.Array  # mm from the first voxel, [n]


def rotation(turn: jax.Array) -> jax.Array:
    """Returns the rotation matrix [n, n]; `turn` [1] or [3]."""
    size = 2 if turn.shape[0] == 1 else 3
    upper = jnp.zeros((size, size)).at[jnp.triu_indices(size, 1)].set(turn)
    skew, one = upper - upper.T, jnp.eye(size)
    return jnp.linalg.solve(one - skew, one + skew)


def transform_points(rigid: Rigid, points: jax.Array) -> jax.Array:
    """Returns where points [..., n] of the fixed image lie in the moving one; both in mm from the first voxel."""
    # A sum of products rather than `@`: the matrix units of some devices would round positions.
    fixed, away = (jnp.broadcast_to(x, points.shape) for x in (rigid.fixed_centre, rigid.moving_centre + rigid.shift))
    turned = jnp.stack(
        [(jnp.broadcast_to(row, points.shape) * (points - fixed)).sum(-1) for row in rotation(rigid.turn)], -1
    )
    return turned + away


@partial(jax.jit, static_argnames=("levels",))
def register(
    fixed: jax.Array,
    moving: jax.Array,
    fixed_spacing: jax.Array,
    moving_spacing: jax.Array,
    levels: tuple[Level, ...] = LEVELS,
) -> Rigid:
    """Returns how `moving` lies to `fixed`.

    Images are 0..1 [H, W] or [D, H, W], black around the head; spacing [n] in mm.

    For several pairs of one shape, `jax.vmap` it.
    """
    centres = centre(fixed, fixed_spacing), centre(moving, moving_spacing)
    parameters = jnp.zeros(fixed.ndim * (fixed.ndim + 1) // 2)
    for number, level in enumerate(levels):
        sharp = gaussian(fixed, level.blur / fixed_spacing), gaussian(moving, level.blur / moving_spacing)
        key = jax.random.fold_in(jax.random.key(0), number)
        points = draw_points(key, fixed, level.points) * fixed_spacing[None]
        weights = parzen(sample(sharp[0], points / fixed_spacing[None]))

        def loss(parameters: jax.Array, sharp=sharp, points=points, weights=weights) -> jax.Array:
            there = transform_points(as_rigid(parameters, *centres), points) / moving_spacing[None]
            inside = (
                ((there >= 0) & (there <= jnp.array(moving.shape, jnp.float32)[None] - 1)).all(-1).astype(jnp.float32)
            )
            return -mutual_information(weights * inside[:, None], parzen(sample(sharp[1], there)))

        parameters = descend(loss, parameters, level)
    return as_rigid(parameters, *centres)


def draw_points(key: jax.Array, image: jax.Array, count: int) -> jax.Array:
    """Returns points in and around the head, at random, [count, n] in voxels."""
    near = gaussian(image, [size / 50 for size in image.shape]) > 0.02
    below = jnp.cumsum(near.ravel().astype(jnp.float32))
    pick, place = jax.random.split(key)
    index = jnp.searchsorted(below, jax.random.uniform(pick, (count,)) * below[-1], side="right")
    voxel = jnp.stack(jnp.unravel_index(jnp.minimum(index, image.size - 1), image.shape), -1)
    most = jnp.array(image.shape, jnp.float32)[None] - 1.0
    return jnp.clip(
        voxel.astype(jnp.float32) + jax.random.uniform(place, voxel.shape, minval=-0.5, maxval=0.5), 0.0, most
    )


def descend(loss, parameters: jax.Array, level: Level) -> jax.Array:
    """Returns the parameters after `level.steps` steps of Adam."""
    optimiser = optax.adam(optax.cosine_decay_schedule(level.stride, level.steps, 0.02), b2=0.95)

    def step(state, _):
        parameters, memory = state
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            change, memory = optimiser.update(jax.grad(loss)(parameters), memory)
        return (parameters + change, memory), None

    (parameters, _), _ = jax.lax.scan(step, (parameters, optimiser.init(parameters)), length=level.steps)
    return parameters


def as_rigid(parameters: jax.Array, fixed_centre: jax.Array, moving_centre: jax.Array) -> Rigid:
    """Returns what the parameters of the search [1 + 2] or [3 + 3], all in mm, stand for."""
    size = fixed_centre.shape[0]
    return Rigid(parameters[:-size] / (2 * RADIUS), parameters[-size:], fixed_centre, moving_centre)


def centre(image: jax.Array, spacing: jax.Array) -> jax.Array:
    """Returns the centre of what is brighter than a tenth of the range, [n] in mm from the first voxel."""
    head = (image > 0.1).astype(jnp.float32)
    places = jnp.meshgrid(*(jnp.arange(size, dtype=jnp.float32) for size in image.shape), indexing="ij")
    return jnp.stack([(head * place).sum() for place in places]) / jnp.maximum(head.sum(), 1) * spacing


def parzen(values: jax.Array) -> jax.Array:
    """Returns the weight of each bin, [N, BINS], for values [N] in 0..1.

    It is a cubic B-spline, so that it can be differentiated.
    """
    place = 1.0 + jnp.clip(values, 0.0, 1.0) * (BINS - 3)
    far = jnp.abs(place[:, None] - jnp.arange(BINS, dtype=jnp.float32)[None])
    return jnp.where(far < 1, 2 / 3 - far**2 + far**3 / 2, jnp.clip(2 - far, 0, None) ** 3 / 6)


def mutual_information(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the mutual information in nats of two images from their bins' weights, each [N, BINS]."""
    joint = jnp.matmul(a.T, b, precision="highest")
    joint = joint / jnp.maximum(joint.sum(), 1e-6)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return jnp.sum(joint * (jnp.log(joint + 1e-10) - jnp.log(apart + 1e-10)))
