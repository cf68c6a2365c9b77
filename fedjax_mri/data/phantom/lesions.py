"""Tumours of the three classes, and the distractors that a `no tumour` slice may show instead."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .anatomy import TOP, Head, Plane, Texture, cavity_radius
from .cases import between
from .physics import ADENOMA, CALCIFICATION, CSF, GLIOMA, HAEMATOMA, MENINGIOMA, NECROSIS, OEDEMA
from .shapes import Layer, ellipse, inside, turn

CLASSES = ("glioma", "meningioma", "pituitary", "no tumour")
GLIOMA_CLASS, MENINGIOMA_CLASS, PITUITARY_CLASS, NO_TUMOUR = range(4)


@dataclass(frozen=True)
class LesionModel:
    """How hard the classes are to tell apart."""

    size: float = 1.0  # scale of every tumour's radius
    contrast: float = 1.0  # 0: lesions look like white matter; 1: the tissue table
    distractors: float = 0.35  # share of `no tumour` slices with an infarct, cyst, calcification or haematoma
    distractors_elsewhere: float = 0.05  # share of tumour slices with one as well
    low_slices: float = 0.4  # share of the slices without a pituitary tumour cut at the level of the sella
    high_grade: float = 0.75  # share of gliomas with necrosis and an enhancing ring
    thickened_bone: float = 0.2  # share of meningiomas
    calcified: float = 0.22  # share of meningiomas
    one_modality: float = 0.0  # share of tumours that only the CT or only the MR shows, half of them each


class Lesion(NamedTuple):
    """One tumour: scalars, lengths in mm. A radius of 0 stands for none."""

    kind: jax.Array  # int32, class
    x: jax.Array
    y: jax.Array
    radius: jax.Array
    stretch: jax.Array  # long over short axis
    angle: jax.Array  # degrees
    ragged: jax.Array  # edge roughness over the radius
    lobe: jax.Array  # offset of a second lobe over the radius
    core: jax.Array  # radius of the necrosis over that of the tumour; below 0 for none
    oedema: jax.Array  # width
    cleft: jax.Array  # CSF between tumour and brain
    tail: jax.Array  # reach of the dural tail past the edge
    thickening: jax.Array  # of the skull
    calcified: jax.Array  # opacity
    push: jax.Array  # mass effect, 0 to 1
    enhancement: jax.Array  # scale of the gadolinium taken up


# uniform ranges per class: (low, high) for glioma, meningioma, pituitary
RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "radius": ((13, 27), (12, 26), (8, 17)),
    "stretch": ((1.0, 1.5), (1.0, 1.35), (1.0, 1.35)),
    "angle": ((0, 180), (0, 180), (-15, 15)),
    "ragged": ((0.14, 0.30), (0.01, 0.06), (0.01, 0.06)),
    "lobe": ((0.0, 0.9), (0.0, 0.5), (0.0, 0.8)),
    "core": ((0.5, 0.8), (-1, -1), (-3, 0.45)),
    "oedema": ((4, 22), (-12, 14), (-9, 1)),
    "cleft": ((0, 0), (0.6, 2.0), (0, 0.6)),
    "tail": ((0, 0), (-6, 18), (0, 0)),
    "thickening": ((0, 0), (2, 6), (0, 0)),
    "calcified": ((0, 0), (0.3, 0.9), (0, 0)),
    "push": ((0.3, 0.7), (0.3, 0.7), (0.2, 0.5)),
    "enhancement": ((0.6, 1.3), (0.8, 1.3), (0.7, 1.3)),
}


def draw_height(key: jax.Array, kind: jax.Array, model: LesionModel) -> jax.Array:
    """Returns the height of the slice in mm: for pituitary tumours near the sella, for the rest anywhere.

    A share of the rest, `low_slices`, lies as low as the sella.
    """
    place, low = jax.random.uniform(key, (2,), jnp.float32)
    sella = (kind == PITUITARY_CLASS) | (low < model.low_slices)
    return jnp.where(sella, -2.0 + 22.0 * place, 14.0 + (TOP - 14.0) * place)


def draw_lesion(key: jax.Array, kind: jax.Array, head: Head, model: LesionModel) -> Lesion:
    """Returns the tumour of a patient of class `kind`; radius 0 for `no tumour`."""
    place, shape, chance = jax.random.split(key, 3)
    share = jax.random.uniform(shape, (len(RANGES),), jnp.float32)
    row = jnp.minimum(kind, PITUITARY_CLASS)
    traits = {
        name: between(jnp.asarray(np.asarray(limits, np.float32))[row], share[i])
        for i, (name, limits) in enumerate(RANGES.items())
    }
    traits["radius"] = jnp.where(kind == NO_TUMOUR, 0.0, model.size * traits["radius"])
    grade, bone, lime = jax.random.uniform(chance, (3,), jnp.float32) < jnp.float32(
        np.asarray([model.high_grade, model.thickened_bone, model.calcified], np.float32)
    )
    low_grade = (kind == GLIOMA_CLASS) & ~grade
    traits["core"] = jnp.where(low_grade, -1.0, traits["core"])
    traits["enhancement"] = jnp.where(low_grade, 0.1, traits["enhancement"])
    traits["thickening"] = jnp.where(bone, traits["thickening"], 0.0)
    traits["calcified"] = jnp.where(lime, traits["calcified"], 0.0)
    x, y = place_lesion(place, kind, head, traits["radius"])
    return Lesion(kind=kind, x=x, y=y, **traits)


def place_lesion(key: jax.Array, kind: jax.Array, head: Head, radius: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the tumour's centre in mm: within white matter, on the dura, or at the sella."""
    angle, depth, side, along, wobble = jax.random.uniform(key, (5,), jnp.float32)
    c, s = jnp.cos(2 * jnp.pi * angle), jnp.sin(2 * jnp.pi * angle)
    edge = 1.0 / cavity_radius(head, c, s)  # mm to the inner table in this direction
    reach_white = edge * (0.35 + 0.35 * depth)
    reach_dura = edge - radius * (0.35 + 0.4 * depth)
    sign = jnp.where(angle < 0.5, 1.0, -1.0)
    falx = (sign * 0.7 * radius, jnp.where(s > 0.0, 42.0, -50.0) + 30.0 * (along - 0.5))
    sphenoid = (sign * 34.0 * along, 14.0 + 16.0 * along)
    low = head.z < 12.0
    midline = (jnp.where(low, sphenoid[0], falx[0]), jnp.where(low, sphenoid[1], falx[1]))
    sella = (3.0 * (wobble - 0.5), 7.0 + 4.0 * (along - 0.5))
    convex = side < 0.65
    dura = (jnp.where(convex, reach_dura * c, midline[0]), jnp.where(convex, reach_dura * s, midline[1]))
    x = jnp.stack([reach_white * c, dura[0], sella[0], sella[0]])
    y = jnp.stack([reach_white * s, dura[1], sella[1], sella[1]])
    return x[kind], y[kind]


def draw_visible(key: jax.Array, model: LesionModel) -> jax.Array:
    """Returns whether CT and MR show the tumour, if there is one, float32 [2]."""
    chance, half = jax.random.uniform(key, (), jnp.float32), jnp.float32(model.one_modality / 2)
    return jnp.stack([chance >= half, (chance < half) | (chance >= 2 * half)]).astype(jnp.float32)


def without(lesion: Lesion) -> Lesion:
    """Returns the lesion of the same patient before the tumour grew."""
    none = jnp.zeros_like(lesion.radius)
    return lesion._replace(radius=none, oedema=none, push=none)


def push_aside(plane: Plane, lesion: Lesion) -> Plane:
    """Returns where the tissue now at each pixel lay before the tumour grew: its mass effect."""
    dx, dy = plane.x - lesion.x, plane.y - lesion.y
    scale = 1.5 * lesion.radius + 0.3 * jax.nn.relu(lesion.oedema) + 1e-3
    share = lesion.push * jnp.exp(-0.5 * (jnp.square(dx) + jnp.square(dy)) / jnp.square(scale))
    return plane._replace(x=plane.x - share * dx, y=plane.y - share * dy)


def tumour_distance(plane: Plane, lesion: Lesion, texture: Texture) -> jax.Array:
    """Returns the signed distance to the tumour's edge in mm; large where there is none."""
    x, y = turn(plane.x - lesion.x, plane.y - lesion.y, lesion.angle)
    radius = jnp.maximum(lesion.radius, 1.0)
    first = ellipse(x, y, radius * jnp.sqrt(lesion.stretch), radius / jnp.sqrt(lesion.stretch))
    second = ellipse(x, y - lesion.lobe * radius, 0.75 * radius, 0.75 * radius)
    rough = lesion.ragged * radius * texture.edge
    return jnp.minimum(first, second) + rough + jnp.where(lesion.radius > 0.0, 0.0, 1e4)


def tumour_layers(plane: Plane, lesion: Lesion, texture: Texture, edge: jax.Array, beyond: jax.Array) -> list[Layer]:
    """Returns the layers calcification, necrosis, solid tumour, dural tail and CSF cleft; `edge` and `beyond` in mm."""
    pixel = plane.pixel
    solid = inside(edge, pixel)
    core = edge + (1.0 - lesion.core) * lesion.radius + 1.2 * texture.grain
    core = jnp.where(lesion.core > 0.0, core, 1e4)
    lime = inside(2.0 - 3.0 * texture.grain + 0.1 * edge, pixel) * lesion.calcified
    tail = inside(jnp.maximum(-beyond - 2.5, edge - lesion.tail), pixel) * (lesion.tail > 0.0).astype(jnp.float32)
    of = [(lesion.kind == kind).astype(jnp.float32) for kind in range(3)]
    return [
        (CALCIFICATION, lime * solid),
        (NECROSIS, inside(core, pixel) * solid),
        (GLIOMA, solid * of[GLIOMA_CLASS]),
        (MENINGIOMA, jnp.maximum(solid, tail) * of[MENINGIOMA_CLASS]),
        (ADENOMA, solid * of[PITUITARY_CLASS]),
        (CSF, inside(edge - lesion.cleft, pixel)),
    ]


def tumour_oedema(lesion: Lesion, texture: Texture, edge: jax.Array) -> jax.Array:
    """Returns the opacity of vasogenic oedema in white matter, in fingers; `edge` in mm."""
    width = lesion.oedema * (1.0 + 0.5 * texture.depth)
    return 0.9 * inside(edge - width, 4.0) * (lesion.oedema > 0.0).astype(jnp.float32)


class Distractor(NamedTuple):
    """Something that is not a tumour: scalars, lengths in mm."""

    kind: jax.Array  # int32: infarct, cyst, calcification, haematoma
    x: jax.Array
    y: jax.Array
    radius: jax.Array  # 0 for none
    stretch: jax.Array
    angle: jax.Array  # degrees


def draw_distractor(key: jax.Array, kind: jax.Array, head: Head, model: LesionModel) -> Distractor:
    """Returns a distractor, more often in a slice without tumour."""
    u = jax.random.uniform(key, (7,), jnp.float32)
    share = jnp.where(kind == NO_TUMOUR, model.distractors, model.distractors_elsewhere)
    what = jnp.floor(4.0 * u[0]).astype(jnp.int32)
    radius = between(jnp.asarray([[10.0, 24.0], [6.0, 18.0], [1.5, 4.5], [6.0, 14.0]], jnp.float32)[what], u[1])
    c, s = jnp.cos(2 * jnp.pi * u[2]), jnp.sin(2 * jnp.pi * u[2])
    reach = (0.1 + 0.8 * u[3]) / cavity_radius(head, c, s)
    radius = jnp.where(u[4] < share, radius, 0.0)
    return Distractor(what, reach * c, reach * s, radius, 1.0 + 0.8 * u[5], 180.0 * u[6])


def distractor_layers(plane: Plane, distractor: Distractor, texture: Texture) -> list[Layer]:
    """Returns the layers of the distractor, and of the oedema round a haematoma."""
    x, y = turn(plane.x - distractor.x, plane.y - distractor.y, distractor.angle)
    radius = jnp.maximum(distractor.radius, 1.0)
    edge = ellipse(x, y, radius * distractor.stretch, radius)
    of = [(distractor.kind == kind).astype(jnp.float32) for kind in range(4)]
    edge = edge + radius * texture.edge * (0.25 * of[0] + 0.02 * of[1] + 0.1 * of[2] + 0.1 * of[3])
    edge = edge + jnp.where(distractor.radius > 0.0, 0.0, 1e4)
    here = inside(edge, plane.pixel)
    same_side = inside(2.0 - plane.x * jnp.sign(distractor.x), plane.pixel)  # an artery feeds one hemisphere
    return [
        (OEDEMA, 0.85 * here * same_side * of[0]),
        (CSF, here * of[1]),
        (CALCIFICATION, here * of[2]),
        (HAEMATOMA, here * of[3]),
        (OEDEMA, 0.8 * inside(edge - 4.0, 4.0) * of[3]),
    ]
