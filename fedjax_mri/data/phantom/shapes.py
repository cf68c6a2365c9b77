"""Level sets in mm (negative inside), smooth random fields, and the painting of tissues."""

from collections.abc import Iterable
from functools import cache, reduce

import jax
import jax.numpy as jnp
import numpy as np

from .physics import AIR, NAMES

Layer = tuple[int, jax.Array]  # tissue, opacity [S, S]


def inside(distance: jax.Array, pixel: float | jax.Array) -> jax.Array:
    """Returns the share of a pixel within the level set: the partial volume of a straight edge; both in mm."""
    return jnp.clip(0.5 - distance / pixel, 0.0, 1.0)


def outside(distance: jax.Array, pixel: jax.Array) -> jax.Array:
    """Returns the share of a pixel beyond the level set; both in mm."""
    return jnp.clip(0.5 + distance / pixel, 0.0, 1.0)


def window(z: jax.Array, low: float, high: float, soft: float = 6.0) -> jax.Array:
    """Returns 1 for heights between `low` and `high` mm, falling to 0 within about `soft` mm.

    A thick slice overlaps so.
    """
    return jnp.clip((z - low) / soft + 0.5, 0.0, 1.0) * jnp.clip((high - z) / soft + 0.5, 0.0, 1.0)


def turn(x: jax.Array, y: jax.Array, degrees: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the coordinates in a frame turned anticlockwise by `degrees`."""
    c, s = jnp.cos(jnp.deg2rad(jnp.float32(degrees))), jnp.sin(jnp.deg2rad(jnp.float32(degrees)))
    return c * x + s * y, c * y - s * x


def angle(y: jax.Array, x: jax.Array) -> jax.Array:
    """Returns atan2 in radians, from an arctangent that XLA computes for several pixels at once.

    XLA calls atan2 for each of them.
    """
    across, along = jnp.abs(y), jnp.abs(x)
    octant = jnp.arctan(jnp.minimum(across, along) / jnp.maximum(jnp.maximum(across, along), 1e-12))
    quadrant = jnp.where(across > along, jnp.pi / 2 - octant, octant)
    return jnp.where(y < 0, -1.0, 1.0) * jnp.where(x < 0, jnp.pi - quadrant, quadrant)


def ellipse(x: jax.Array, y: jax.Array, a: float | jax.Array, b: float | jax.Array) -> jax.Array:
    """Returns the distance to an ellipse of half axes a, b about the origin."""
    radius = jnp.sqrt(jnp.square(x / a) + jnp.square(y / b) + 1e-6)
    return (radius - 1.0) * jnp.minimum(jnp.float32(a), jnp.float32(b))


def spindle(
    across: jax.Array, along: jax.Array, width: float | jax.Array, length: float | jax.Array, bend: float = 0.0
) -> jax.Array:
    """Returns the distance to a slit with pointed ends, half `width` and half `length`, bent by `bend` per mm."""
    square = jnp.square(along)
    profile = width * (1.0 - square / (length * length))
    return jnp.maximum(jnp.abs(across - bend * square) - profile, jnp.abs(along) - length)


def least(distances: list[jax.Array]) -> jax.Array:
    """Returns the distance to the union of level sets."""
    return reduce(jnp.minimum, distances)


def textures(key: jax.Array, size: int, knots: tuple[int, ...]) -> jax.Array:
    """Returns standard normal fields over the field of view, [len(knots), S, S], each of so many bumps a side."""
    fields = []
    for number, bumps in enumerate(knots):
        basis, _ = field_basis(size, bumps)
        weights = jax.random.normal(jax.random.fold_in(key, number), (bumps, bumps), jnp.float32)
        fields.append(expand(weights, basis, basis))
    return jnp.stack(fields)


@cache
def field_basis(size: int, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns Gaussian bumps over the field of view, float32 [size, knots], and their slope.

    They are scaled for fields of unit variance.
    """
    place, centre = (np.arange(size + 1) + 0.5) / size, (np.arange(knots) + 0.5) / knots
    bumps = np.exp(-0.5 * ((place[:, None] - centre[None, :]) * knots / 0.7) ** 2)
    bumps = (bumps / np.linalg.norm(bumps, axis=1, keepdims=True)).astype(np.float32)
    return bumps[:-1], np.diff(bumps, axis=0)


def expand(weights: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Returns fields [..., S, S] from weights of their bumps [..., K, K]."""
    return jnp.einsum("yj,...jk,xk->...yx", rows, weights, columns, precision="float32")


def composite(layers: Iterable[Layer]) -> tuple[jax.Array, ...]:
    """Returns the tissues' memberships, T maps [S, S] that sum to 1.

    Each layer takes its opacity's share of what earlier ones left.
    """
    maps: dict[int, jax.Array] = {}
    clear: jax.Array | None = None
    for tissue, opacity in layers:
        share = opacity if clear is None else clear * opacity
        clear = 1.0 - share if clear is None else clear - share
        maps[tissue] = maps[tissue] + share if tissue in maps else share
    assert clear is not None
    maps[AIR] = maps[AIR] + clear
    return tuple(maps.get(tissue, jnp.zeros_like(clear)) for tissue in range(len(NAMES)))
