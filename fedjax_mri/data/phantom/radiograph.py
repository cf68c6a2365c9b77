"""A chest radiograph of simple solids: how far each ray runs through lung, bone and soft tissue, and Beer-Lambert.

Coordinates in mm: x to the right of the picture (the patient's left), y up, from the middle of the chest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .scanner import filtered
from .shapes import ellipse, inside, turn

SOFT, LUNG = 0.020, 0.005  # attenuation of soft tissue and of inflated lung, 1/mm, near 65 keV
SPECKS = 6  # foci of pneumonia in a patient at most


class Chest(NamedTuple):
    """One patient's chest: scalars, lengths in mm."""

    width: jax.Array  # half width of the trunk
    depth: jax.Array  # half thickness of the trunk
    lung: jax.Array  # scale of the lungs
    inflation: jax.Array  # how far the diaphragm is below its usual height
    heart: jax.Array  # scale of the heart
    pitch: jax.Array  # from rib to rib
    slope: jax.Array  # of the posterior ribs
    bone: jax.Array  # scale of the thickness of bone
    vessels: jax.Array  # scale of the vessels of the lungs
    breast: jax.Array  # thickness of the breasts, 0 or less for none


LOW = Chest(140, 88, 0.92, -14, 0.85, 20, 0.20, 0.8, 0.6, -30)  # type: ignore[arg-type]
HIGH = Chest(172, 118, 1.06, 10, 1.15, 24, 0.42, 1.2, 1.4, 30)  # type: ignore[arg-type]


class Opacity(NamedTuple):
    """Foci of pneumonia, fields [SPECKS], lengths in mm; a radius of 0 stands for none."""

    x: jax.Array
    y: jax.Array
    radius: jax.Array
    filled: jax.Array  # share of the air in the middle of the focus that fluid has replaced


class PathLengths(NamedTuple):
    """How far the ray to each pixel runs through each material, in mm, [S, S]; and the opacity's extent."""

    soft: jax.Array
    lung: jax.Array
    bone: jax.Array
    opacity: jax.Array  # share of the lung's air that is replaced, 0 to 1, 0 outside the lungs


def rod(across: jax.Array, radius: float | jax.Array, thick: float | jax.Array) -> jax.Array:
    """Returns the path through a bar of half width `radius` and thickness `thick` in its middle; all in mm."""
    return thick * jnp.sqrt(jnp.clip(1.0 - jnp.square(across / radius), 0.0, 1.0))


def ball(x: jax.Array, y: jax.Array, a: float | jax.Array, b: float | jax.Array, thick: jax.Array) -> jax.Array:
    """Returns the path through an ellipsoid of half axes a, b, `thick` in its middle; all in mm."""
    return thick * jnp.sqrt(jnp.clip(1.0 - jnp.square(x / a) - jnp.square(y / b), 0.0, 1.0))


def trunk(chest: Chest, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the path through the body: an elliptic cylinder that widens to the shoulders, and the neck."""
    shoulder = jnp.clip((y - 20.0) / 100.0, 0.0, 1.0)
    half = chest.width + 60.0 * jnp.square(shoulder) * (3.0 - 2.0 * shoulder)
    top = 168.0 - 0.0019 * jnp.square(x)  # upper edge of the shoulders
    path = rod(x, half, 2.0 * chest.depth) * jnp.sqrt(jnp.clip((top - y) / 70.0, 0.0, 1.0))
    return jnp.maximum(path, rod(x, 58.0, 110.0) * inside(120.0 - y, 30.0))


def lungs(chest: Chest, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the path through both lungs, apart from what heart and mediastinum take."""
    side, s = jnp.sign(x), jnp.abs(x)
    high = jnp.clip((y + 110.0) / 240.0, 0.0, 1.0)
    centre, half = 72.0 - 20.0 * high**2, (62.0 - 24.0 * high**2) * chest.lung * chest.width / 156.0
    u, v = (s - centre) / half, (y - 8.0) / (122.0 * chest.lung)
    thick = 1.5 * chest.depth * jnp.clip(1.0 - jnp.abs(u) ** 2.6 - jnp.abs(v) ** 4, 0.0, 1.0) ** 0.45
    dome = -84.0 - chest.inflation + jnp.where(side < 0, 12.0, 4.0) - 26.0 * jnp.square((s - 58.0) / 70.0)
    return thick * (0.88 * inside(dome - y, 5.0) + 0.12 * inside(dome - 26.0 - y, 22.0))


def middle(chest: Chest, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the path through the heart, and the share of lung that the mediastinum leaves at each pixel."""
    size = chest.heart
    across, along = turn(x - 20.0, y + 46.0 + chest.inflation, -38.0)
    heart = ball(across, along, 66.0 * size, 48.0 * size, 1.1 * chest.depth * size)
    right = ball(x + 14.0, y + 44.0 + chest.inflation, 36.0 * size, 46.0 * size, 0.9 * chest.depth * size)
    knob = ellipse(x - 27.0, y - 62.0, 15.0, 16.0)
    hilum = ellipse(jnp.abs(x) - 30.0, y - 12.0, 14.0, 30.0)
    band = jnp.abs(x) - 27.0 + 7.0 * jnp.clip(y / 110.0, -1.0, 1.0)
    taken = jnp.maximum(0.92 * inside(band, 7.0), jnp.maximum(0.7 * inside(knob, 9.0), 0.5 * inside(hilum, 22.0)))
    return jnp.maximum(heart, right), 1.0 - taken


def bones(chest: Chest, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the path through spine, ribs and clavicles, in mm of compact bone."""
    s = jnp.abs(x)
    discs = 0.72 + 0.28 * jnp.cos(2.0 * jnp.pi * y / 25.0)
    spine = rod(x, 17.0, 22.0) * discs
    reach = 0.92 * chest.width * jnp.sqrt(jnp.clip(1.0 - jnp.square((y + 20.0) / 220.0), 0.1, 1.0))
    caged = inside(s - reach, 10.0) * inside(y - 138.0 + 0.25 * s, 12.0) * inside(-112.0 - 0.25 * s - y, 20.0)
    back = y + chest.slope * (s - 20.0) + 0.0028 * jnp.square(s - 20.0) - 14.0 * inside(s - 55.0, 90.0)
    front = y - 0.75 * (s - 60.0) + 0.0016 * jnp.square(s - 60.0)
    posterior = rod(nearest(back, chest.pitch), 0.27 * chest.pitch, 6.0) * inside(14.0 - s, 8.0)
    anterior = rod(nearest(front, 1.15 * chest.pitch), 0.30 * chest.pitch, 3.0) * inside(62.0 - s, 20.0)
    _, across = turn(s - 66.0, y - 118.0 + 0.0012 * jnp.square(s - 66.0), 9.0)
    clavicle = rod(across, 6.5, 9.0) * inside(jnp.abs(s - 66.0) - 54.0, 10.0)
    return chest.bone * (spine + (posterior + anterior) * caged + clavicle)


def nearest(value: jax.Array, pitch: jax.Array) -> jax.Array:
    """Returns the distance to the nearest of lines that are `pitch` apart, in mm along y."""
    return (value / pitch - jnp.round(value / pitch)) * pitch


def filled_share(opacity: Opacity, x: jax.Array, y: jax.Array, rough: jax.Array) -> jax.Array:
    """Returns the share of the air that fluid has replaced, [S, S]: ragged foci that fade out."""
    centre_x, centre_y, radius, filled = (trait[:, None, None] for trait in opacity)
    away = jnp.sqrt(jnp.square(x[None] - centre_x) + 0.7 * jnp.square(y[None] - centre_y)) / jnp.maximum(radius, 1.0)
    filled = jnp.where(radius > 0.0, filled, 0.0) * jax.nn.sigmoid((0.8 - away - 0.34 * rough[None]) / 0.10)
    return 1.0 - jnp.prod(1.0 - filled, 0)


def trace(chest: Chest, opacity: Opacity, x: jax.Array, y: jax.Array, texture: jax.Array) -> PathLengths:
    """Returns what the rays to each pixel run through.

    x and y in mm [S, S], texture standard normal fields [3, S, S].
    """
    bend, fine, rough = texture
    body, bone = trunk(chest, x, y), bones(chest, x, y)
    heart, free = middle(chest, x, y)
    x, y = x + 1.5 * bend, y + 2.0 * bend
    air = jnp.maximum(lungs(chest, x, y) * free - heart, 0.0)
    hilum = jnp.exp(-(jnp.square(jnp.abs(x) - 36.0) + jnp.square(y - 10.0)) / 2.0 / 38.0**2)
    branch = jnp.exp(-0.5 * jnp.square(fine / 0.25)) + 0.25 * jax.nn.relu(rough)
    vessel = chest.vessels * (6.0 + 24.0 * hilum) * branch * jnp.clip(air / 60.0, 0.0, 1.0)
    filled = filled_share(opacity, x, y, rough + 0.4 * fine) * jnp.clip(air / 10.0, 0.0, 1.0)
    kept = jnp.maximum(air - vessel, 0.0) * (1.0 - filled)
    breasts = ball(jnp.abs(x) - 78.0, y + 62.0, 56.0, 50.0, jax.nn.relu(chest.breast)) * inside(-y - 108.0, 20.0)
    trachea = jnp.minimum(rod(x, 8.5, 15.0) * inside(20.0 - y, 20.0), body)
    soft = jnp.maximum(body - kept - trachea - bone, 0.0) + breasts
    return PathLengths(soft, kept, bone, filled)


def optical_depth(rays: PathLengths, bone: jax.Array) -> jax.Array:
    """Returns the integral of the attenuation along each ray, [S, S]; `bone` is the attenuation of bone, 1/mm."""
    return SOFT * rays.soft + LUNG * rays.lung + bone * rays.bone


def exposed(key: jax.Array, depth: jax.Array, scatter: jax.Array, noise: jax.Array, blur: jax.Array) -> jax.Array:
    """Returns the detector's reading as optical depth, [S, S].

    Scattered rays fog it, quanta are counted, edges blur.

    `scatter` is the share of scattered rays, `noise` the relative noise at the mean exposure, `blur` in pixels.
    """
    size, through = depth.shape[0], jnp.exp(-depth)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]).astype(np.float32)
    spread = jnp.exp(-2.0 * jnp.square(jnp.pi * frequency * 0.06 * size))
    fog = filtered(through, (1.0 - scatter) * jnp.exp(-2.0 * jnp.square(jnp.pi * frequency * blur)) + scatter * spread)
    rays = jnp.maximum(fog, 1e-4)
    mean = jnp.exp(jnp.mean(jnp.log(rays)))
    noisy = rays + noise * jnp.sqrt(mean * rays) * jax.random.normal(key, depth.shape, jnp.float32)
    return -jnp.log(jnp.maximum(noisy, 0.1 * rays))
