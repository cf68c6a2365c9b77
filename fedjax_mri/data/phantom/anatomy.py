"""The healthy head: one axial slice, from the sella to the vertex, as layers of tissue in front-to-back order.

Head coordinates in mm: x to the right of the picture, y anterior, z up from the floor of the sella.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .physics import ADENOMA, AIR, BLOOD, CALCIFICATION, CORTICAL, CSF, DIPLOE, FAT, GREY, MUSCLE, OEDEMA, WHITE
from .shapes import Layer, angle, ellipse, inside, least, outside, spindle, turn, window

TOP = 76.0  # mm, height of the highest slice


class Head(NamedTuple):
    """One patient's slice: scalars, lengths in mm."""

    z: jax.Array  # height of the slice above the sella
    width: jax.Array  # half width of the cranial cavity at its widest
    length: jax.Array  # half length
    egg: jax.Array  # how much narrower the forehead is than the back
    skew: jax.Array  # left-right asymmetry of the skull
    skull: jax.Array  # thickness of the vault
    scalp: jax.Array
    ventricle: jax.Array  # scale of the ventricles, 1 in middle age
    atrophy: jax.Array  # half width of a sulcus
    gyri: jax.Array  # sulci round a hemisphere, a whole number
    fold: jax.Array  # how far sulci meander, in sulci
    ageing: jax.Array  # periventricular white matter change, 0 to 1
    calcified: jax.Array  # opacity of pineal and choroid calcification
    asymmetry: jax.Array  # relative size difference of the two hemispheres' ventricles


LOW = Head(0.0, 61.0, 76.0, 0.02, -0.015, 4.5, 4.0, 0.6, 0.25, 15.0, 0.5, -0.6, -1.0, -0.12)  # type: ignore[arg-type]
HIGH = Head(1.0, 70.0, 88.0, 0.09, 0.015, 8.5, 8.0, 1.6, 1.2, 21.0, 1.0, 1.0, 1.0, 0.12)  # type: ignore[arg-type]


def draw_head(key: jax.Array, z: jax.Array) -> Head:
    """Returns a patient, uniform between LOW and HIGH, cut at height `z` mm."""
    share = jax.random.uniform(key, (len(Head._fields),), jnp.float32)
    head = Head(*(low + (high - low) * share[i] for i, (low, high) in enumerate(zip(LOW, HIGH))))
    return head._replace(
        z=z, gyri=jnp.round(head.gyri), ageing=jax.nn.relu(head.ageing), calcified=jax.nn.relu(head.calcified)
    )


class Plane(NamedTuple):
    """Where the slice's pixels are in the head."""

    x: jax.Array  # mm [S, S]
    y: jax.Array  # mm [S, S]
    pixel: jax.Array  # mm


class Texture(NamedTuple):
    """Standard normal random fields over the slice, each [S, S]."""

    bend_x: jax.Array  # coarse
    bend_y: jax.Array  # coarse
    bias: jax.Array  # coarse
    fold: jax.Array  # fine from here on
    fold_x: jax.Array  # its change per pixel to the right
    fold_y: jax.Array  # its change per pixel upwards
    depth: jax.Array
    edge: jax.Array
    grain: jax.Array


def cavity_radius(head: Head, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the distance from the centre over that of the inner table in the same direction; x, y of any shape."""
    lift = jnp.square((head.z - 22.0) / 78.0)
    size = jnp.sqrt(1.0 - lift)
    egg = head.egg + 0.06 * window(head.z, -50.0, 6.0, 12.0)
    square = jnp.square(x) + jnp.square(y) + 1e-3
    shape = 1.0 - 2.0 * egg * x * x * y * jax.lax.rsqrt(square) / square + head.skew * x * y / square
    return jnp.sqrt(jnp.square(x / head.width) + jnp.square(y / head.length) + 1e-6) / (size * shape)


def beyond_cavity(head: Head, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the signed distance in mm to the inner table of the skull along the ray from the centre.

    It is positive outside.
    """
    radius = jnp.sqrt(jnp.square(x) + jnp.square(y) + 1e-3)
    return radius - radius / cavity_radius(head, x, y)


def skull_layers(head: Head, plane: Plane, beyond: jax.Array, texture: Texture, thickening: jax.Array) -> list[Layer]:
    """Returns the layers air, skin, fat, muscle and the three of the vault, from outside in.

    `beyond` and `thickening` in mm.
    """
    x, y, pixel = plane
    temporal = window(head.z, -50.0, 22.0, 20.0) * inside(ellipse(jnp.abs(x) - 74.0, y - 12.0, 26.0, 36.0), 14.0)
    vault = head.skull + 0.5 * texture.bend_y
    scalp = vault + head.scalp * (1.0 + 0.9 * temporal)
    sinus = ellipse(x, beyond - 0.48 * vault, 15.0, 0.26 * vault) + 0.3 * texture.edge + jax.nn.relu(-y)
    return [
        (AIR, outside(beyond - scalp, pixel)),
        (MUSCLE, outside(beyond - scalp + 1.6, pixel)),
        (FAT, outside(beyond - vault, pixel) * (1.0 - 0.9 * temporal * inside(beyond - scalp + 3.5, pixel))),
        (MUSCLE, outside(beyond - vault, pixel)),
        (AIR, inside(sinus, pixel) * window(head.z, -9.0, 14.0)),
        (CORTICAL, outside(beyond - vault + 0.3 * vault, pixel)),
        (DIPLOE, outside(beyond - 0.3 * vault, pixel)),
        (CORTICAL, outside(beyond + thickening, pixel)),
    ]


def base_layers(head: Head, plane: Plane) -> list[Layer]:
    """Returns the layers between the brain and the dura.

    They are bone and air of the skull base, the gland and the venous sinus.
    """
    s, (x, y, pixel) = jnp.abs(plane.x), plane
    z = head.z
    petrous = spindle(*turn(s - 36.0, y + 30.0, 52.0), 6.5, 27.0)
    wing = spindle(*turn(s - 38.0, y - 27.0, -62.0), 3.2, 26.0, 0.006)
    dorsum = ellipse(x, y + 1.0, 8.0, 2.2)
    clinoid = ellipse(s - 11.0, y - 12.0, 3.0, 4.5)
    bone = jnp.minimum(petrous, wing)
    sella = jnp.minimum(dorsum, clinoid)
    sphenoid = ellipse(x, y - 21.0, 12.0, 8.0)
    return [
        (AIR, inside(sphenoid, pixel) * window(z, -50.0, 0.0, 4.0)),
        (CORTICAL, inside(sphenoid - 2.0, pixel) * window(z, -50.0, 0.0, 4.0)),
        (ADENOMA, inside(ellipse(x, y - 6.0, 6.5, 4.5), pixel) * window(z, -50.0, 3.0, 4.0)),
        (CORTICAL, inside(sella, pixel) * window(z, -50.0, 3.5, 4.0)),
        (CORTICAL, inside(bone, pixel) * window(z, -50.0, 3.0)),
    ]


def ventricles(head: Head, plane: Plane) -> jax.Array:
    """Returns the distance to the nearest ventricle in mm; those of other levels are far away."""
    x, y, _ = plane
    s, z = jnp.abs(x), head.z
    v = head.ventricle * (1.0 + head.asymmetry * jnp.sign(x))
    horn = spindle(*turn(s - 6.0 - 3.0 * v, y - 27.0, -24.0), 3.6 * v, 15.0, -0.012)
    atrium = spindle(*turn(s - 25.0, y + 36.0, 24.0), 5.0 * v, 19.0, -0.012)
    body = spindle(s - 7.0 - 4.0 * v, y - 1.0, 5.2 * v, 37.0, 0.007)
    third = spindle(x, y - 1.0, 1.9 * head.ventricle, 14.0)
    temporal = spindle(*turn(s - 34.0, y + 6.0, 20.0), 1.7 * v, 11.0, 0.01)
    fourth = ellipse(x, y + 34.0, 7.5 * (0.8 + 0.2 * head.ventricle), 4.5)
    levels = ((horn, 19, 41), (atrium, 20, 41), (body, 42, 57), (third, 12, 33), (temporal, 0, 16), (fourth, -9, 9))
    nearest = [shape + 8.0 * (1.0 - window(z, low, high, 5.0)) for shape, low, high in levels]
    return least(nearest)


def cisterns(head: Head, plane: Plane) -> jax.Array:
    """Returns the distance to the basal cisterns in mm."""
    x, y, _ = plane
    s, z = jnp.abs(x), head.z
    star = jnp.minimum(ellipse(x, y - 9.0, 14.0, 8.0), spindle(*turn(s - 20.0, y - 14.0, -68.0), 2.2, 18.0))
    front = spindle(x, y - 26.0, 2.2, 20.0)
    ambient = spindle(y + 29.0 - 0.012 * s * s, x, 3.4, 26.0)
    suprasellar = jnp.minimum(star, front) + 8.0 * (1.0 - window(z, 2.0, 14.0, 4.0))
    return jnp.minimum(suprasellar, ambient + 8.0 * (1.0 - window(z, 9.0, 24.0, 5.0))) - 0.4 * head.atrophy


def hindbrain_layers(head: Head, plane: Plane) -> list[Layer]:
    """Returns the layers of brainstem and cerebellum below the tentorium, with the CSF around them."""
    x, y, pixel = plane
    z = head.z
    stem_low = window(z, -50.0, 20.0, 5.0)
    stem = ellipse(x, y + 14.0, 17.0, 13.0)
    aqueduct = ellipse(x, y + 23.0, 1.5, 1.5)
    low = window(z, -50.0, 15.0, 6.0)
    reach = 1.0 - 0.55 * jnp.clip(z / 20.0, 0.0, 1.0)
    half = ellipse(x, y + 50.0, 54.0 * reach, 30.0 * jnp.sqrt(reach))
    leaf = jnp.abs(jnp.mod(half / 5.2 + 0.012 * x, 1.0) - 0.5) * 5.2
    core = ellipse(jnp.abs(x) - 16.0 * reach, y + 46.0, 19.0 * reach, 10.0 * reach)
    return [
        (CSF, inside(aqueduct, pixel) * window(z, 8.0, 18.0, 4.0)),
        (WHITE, inside(stem, pixel) * stem_low),
        (CSF, inside(stem - 1.8, pixel) * window(z, -50.0, 7.0, 5.0)),
        (WHITE, inside(core, pixel) * low * inside(half, pixel)),
        (CSF, inside(leaf - 0.35 * head.atrophy, pixel) * low * inside(half + 1.0, pixel)),
        (GREY, inside(half, pixel) * low),
        (CSF, inside(half - 1.5, pixel) * low),
    ]


def deep_grey(head: Head, plane: Plane) -> jax.Array:
    """Returns the distance to thalamus, lentiform nucleus and caudate in mm."""
    x, y, _ = plane
    s, z, v = jnp.abs(x), head.z, head.ventricle
    thalamus = ellipse(*turn(s - 10.5, y + 9.0, 20.0), 7.0, 13.0) + 8.0 * (1.0 - window(z, 15.0, 37.0))
    lentiform = ellipse(*turn(s - 26.0, y - 7.0, -12.0), 6.0, 15.0) + 8.0 * (1.0 - window(z, 11.0, 37.0))
    caudate = ellipse(*turn(s - 12.0 - 4.5 * v, y - 25.0, -24.0), 4.0, 9.5) + 8.0 * (1.0 - window(z, 16.0, 46.0))
    return least([thalamus, lentiform, caudate])


def sylvian(head: Head, plane: Plane) -> jax.Array:
    """Returns the distance to the Sylvian fissure and the insular cistern in mm."""
    x, y, _ = plane
    s = jnp.abs(x)
    insula = spindle(s - 41.0, y - 6.0, 1.0 + head.atrophy, 20.0, -0.010)
    stem = spindle(*turn(s - 54.0, y - 2.0 + 0.2 * x, 80.0), 0.8 + head.atrophy, 18.0, 0.01)
    return jnp.minimum(insula, stem) + 8.0 * (1.0 - window(head.z, 7.0, 40.0))


def sulci(head: Head, plane: Plane, depth: jax.Array, texture: Texture) -> jax.Array:
    """Returns the distance in mm to the CSF over and between the gyri; `depth` in mm below the dura."""
    hx, hy = (jnp.abs(plane.x) - 28.0) / 30.0, plane.y / 55.0
    square = jnp.square(hx) + jnp.square(hy) + 0.05
    turns = head.gyri / (2.0 * jnp.pi)
    phase = turns * angle(hy, hx) + head.fold * texture.fold
    # the phase's gradient, cycles per mm, turns shares of a cycle into mm
    right = -jnp.sign(plane.x) * turns * hy / (30.0 * square) + head.fold * texture.fold_x / plane.pixel
    up = turns * hx / (55.0 * square) + head.fold * texture.fold_y / plane.pixel
    pitch = jnp.sqrt(jnp.square(right) + jnp.square(up) + 0.03**2)
    across = jnp.abs(phase - jnp.round(phase)) / pitch
    bottom = 15.0 + 6.0 * texture.depth
    groove = jnp.maximum(across - head.atrophy * (1.1 - depth / 30.0), depth - bottom)
    return jnp.minimum(groove, depth - 0.8 - 1.2 * head.atrophy)


def cerebrum_layers(head: Head, plane: Plane, beyond: jax.Array, texture: Texture, oedema: jax.Array) -> list[Layer]:
    """Returns the layers of the cerebrum; what is left over is white matter.

    They are falx, ventricles, cisterns, fissures, deep nuclei, cortex and white matter.
    """
    x, y, pixel = plane
    s, z = jnp.abs(x), head.z
    core = jnp.clip(0.5 - ellipse(x, y + 2.0, 40.0, 42.0) / 10.0, 0.0, 1.0) * window(z, -50.0, 54.0, 8.0)
    midline = s + 40.0 * core
    ventricle = ventricles(head, plane)
    fissure = sylvian(head, plane)
    nuclei = deep_grey(head, plane)
    folds = sulci(head, plane, jnp.minimum(-beyond, midline + 0.6), texture)
    pineal = ellipse(x, y + 24.0, 2.6, 2.6) + 8.0 * (1.0 - window(z, 14.0, 25.0, 4.0))
    choroid = ellipse(s - 24.0, y + 33.0, 2.4, 4.0) + 8.0 * (1.0 - window(z, 22.0, 40.0, 4.0))
    sinus = ellipse(x, beyond + 2.5, 3.8, 3.0) + jax.nn.relu(y)
    caps = inside(ventricle - 2.0 - 3.0 * head.ageing * (1.0 + 0.4 * texture.edge), 2.0 * pixel)
    return [
        (BLOOD, inside(midline - 0.6, pixel) * window(z, 16.0, 90.0)),
        (BLOOD, inside(sinus, pixel)),
        (CALCIFICATION, inside(jnp.minimum(pineal, choroid), pixel) * head.calcified),
        (CSF, inside(jnp.minimum(ventricle, cisterns(head, plane)), pixel)),
        (CSF, inside(fissure, pixel)),
        (GREY, inside(jnp.minimum(fissure - 3.0, nuclei), pixel)),
        (CSF, inside(folds, pixel)),
        (GREY, inside(folds - 3.0, pixel)),
        (OEDEMA, jnp.maximum(oedema, 0.8 * caps * head.ageing)),
        (WHITE, jnp.ones_like(beyond)),
    ]
