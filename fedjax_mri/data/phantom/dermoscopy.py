"""A dermoscopic picture of a skin lesion: its outline, what pigments lie where, and the colours that they leave.

Coordinates in mm from the middle of the picture. What classes look like follows the ABCD rule (asymmetry, border,
colours, diameter; Stolz et al. 1994) and the local features of dermoscopy (Kittler et al. 2016).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .cases import between
from .shapes import inside, turn

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")  # as HAM10000 names them (Tschandl et al. 2018)
HARMONICS = range(3, 13)  # of the outline's irregularity
HAIRS = 5
# Optical density of red, green and blue light in the skin, for a unit of each pigment.
MELANIN = np.array([[[0.55, 0.95, 1.25]]], np.float32)
DEEP = np.array([[[1.00, 0.62, 0.38]]], np.float32)  # melanin in the dermis, which looks blue
BLOOD = np.array([[[0.12, 0.80, 0.62]]], np.float32)
# Colours of bare skin and of keratin.
SKIN = np.array([[[0.93, 0.78, 0.69]]], np.float32)
KERATIN = np.array([[[0.86, 0.82, 0.72]]], np.float32)

Looks = tuple[tuple[float, float], ...]
# Uniform ranges, one for each class.
RANGES: dict[str, Looks] = {
    # class            akiec        bcc          bkl          df           mel          nv           vasc
    "radius": ((2.6, 4.6), (2.4, 4.4), (2.6, 4.6), (1.8, 3.0), (3.2, 5.4), (1.8, 3.8), (1.6, 3.2)),  # mm
    "stretch": ((1.0, 1.5), (1.0, 1.4), (1.0, 1.5), (1.0, 1.2), (1.0, 1.5), (1.0, 1.3), (1.0, 1.3)),
    "asymmetry": ((.06, .14), (.05, .12), (.04, .12), (.00, .04), (.09, .24), (.00, .08), (.00, .06)),  # of the radius
    "irregular": ((.03, .07), (.02, .05), (.02, .05), (.01, .03), (.03, .08), (.01, .04), (.01, .03)),  # of the radius
    "edge": ((.5, 1.2), (.3, .9), (.08, .25), (.6, 1.2), (.15, .5), (.25, .8), (.10, .3)),  # mm over which it fades
    "melanin": ((.05, .25), (.05, .25), (.35, .90), (.20, .40), (.55, 1.0), (.40, .80), (.00, .10)),
    "uneven": ((.1, .3), (.1, .3), (.1, .40), (.0, .15), (.30, .9), (.05, .35), (.0, .1)),  # share of the pigments
    "network": ((.0, .1), (.0, .05), (.0, .1), (.25, .5), (.2, .55), (.3, .65), (.0, .0)),  # of the melanin
    "globules": ((.0, .2), (.0, .2), (.2, .6), (.0, .1), (.2, .7), (.0, .4), (.0, .0)),  # of melanin
    "deep": ((.0, .05), (.0, .1), (.0, .12), (.0, .0), (.05, .5), (.0, .08), (.0, .25)),
    "nests": ((.0, .0), (.3, .7), (.0, .0), (.0, .0), (.0, .2), (.0, .0), (.0, .0)),  # blue-grey ovoids
    "blood": ((.35, .7), (.25, .5), (.0, .12), (.05, .25), (.05, .25), (.0, .12), (.5, .9)),
    "vessels": ((.1, .3), (.5, 1.), (.0, .05), (.0, .2), (.0, .2), (.0, .05), (.0, .1)),  # branching, over the blood
    "lacunae": ((.0, .0), (.0, .0), (.0, .0), (.0, .0), (.0, .0), (.0, .0), (.5, 1.1)),  # lagoons of blood
    "keratin": ((.25, .6), (.0, .15), (.15, .5), (.0, .05), (.0, .05), (.0, .0), (.0, .05)),  # white to yellow specks
    "scar": ((.0, .0), (.0, .0), (.0, .0), (.5, .9), (.0, .25), (.0, .0), (.0, .0)),  # white middle
}  # fmt: skip


class Lesion(NamedTuple):
    """One lesion: scalars but for `waves`; what each means is said at RANGES."""

    radius: jax.Array
    stretch: jax.Array
    asymmetry: jax.Array
    irregular: jax.Array
    edge: jax.Array
    melanin: jax.Array
    uneven: jax.Array
    network: jax.Array
    globules: jax.Array
    deep: jax.Array
    nests: jax.Array
    blood: jax.Array
    vessels: jax.Array
    lacunae: jax.Array
    keratin: jax.Array
    scar: jax.Array
    angle: jax.Array  # degrees
    lean: jax.Array  # degrees, the side to which form and pigment lean
    waves: jax.Array  # standard normal [HARMONICS, 2], of the outline's irregularity


class Person(NamedTuple):
    """The skin round a lesion: scalars but for `hairs`."""

    melanin: jax.Array
    blood: jax.Array
    hairy: jax.Array  # opacity of hairs
    hairs: jax.Array  # uniform [HAIRS, 4]: angle, place, bend, width


def draw_lesion(key: jax.Array, label: jax.Array, contrast: float) -> Lesion:
    """Returns the lesion of a patient of class `label`; with less `contrast` its pigments are fewer."""
    shape, pose, waves = jax.random.split(key, 3)
    share = jax.random.uniform(shape, (len(RANGES),), jnp.float32)
    traits = {
        name: between(jnp.asarray(np.asarray(limits, np.float32))[label], share[i])
        for i, (name, limits) in enumerate(RANGES.items())
    }
    for name in ("melanin", "deep", "nests", "blood", "lacunae", "keratin", "scar"):
        traits[name] = contrast * traits[name]
    angle, lean = 360.0 * jax.random.uniform(pose, (2,), jnp.float32)
    normal = jax.random.normal(waves, (len(HARMONICS), 2), jnp.float32)
    return Lesion(angle=angle, lean=lean, waves=normal, **traits)


def beyond_edge(lesion: Lesion, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the signed distance to the lesion's edge along the ray from its middle, in mm.

    It is positive outside; x, y in mm.
    """
    along, across = turn(x, y, lesion.angle)
    stretch = jnp.sqrt(lesion.stretch)
    away = jnp.sqrt(jnp.square(along / stretch) + jnp.square(across * stretch) + 1e-6)
    c, s = along / stretch / away, across * stretch / away
    wave = lesion.asymmetry * (c * jnp.cos(jnp.deg2rad(lesion.lean)) + s * jnp.sin(jnp.deg2rad(lesion.lean)))
    power_c, power_s = c, s  # cosine and sine of multiples of the angle
    for harmonic in range(2, HARMONICS[-1] + 1):
        power_c, power_s = power_c * c - power_s * s, power_s * c + power_c * s
        if harmonic in HARMONICS:
            cosine, sine = lesion.waves[harmonic - HARMONICS[0]]
            size = lesion.irregular + (0.4 * lesion.asymmetry if harmonic == 3 else 0.0)
            wave = wave + size * (cosine * power_c + sine * power_s) * (3.0 / harmonic) ** 0.7
    return away - lesion.radius * jnp.clip(1.0 + wave, 0.3, 1.9)


def colours(lesion: Lesion, person: Person, x: jax.Array, y: jax.Array, texture: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the skin's colour [S, S, 3] in white light and the lesion's share of each pixel [S, S].

    x and y in mm [S, S]; texture standard normal fields [4, S, S], from coarse to fine.
    """
    coarse, middle, fine, grain = texture
    beyond = beyond_edge(lesion, x, y)
    here = jax.nn.sigmoid(-4.0 * (beyond + 0.12 * middle * lesion.edge) / lesion.edge)
    lean_x, lean_y = jnp.cos(jnp.deg2rad(lesion.lean + lesion.angle)), jnp.sin(jnp.deg2rad(lesion.lean + lesion.angle))
    side = (x * lean_x + y * lean_y) / lesion.radius
    patchy = jnp.clip(1.0 + lesion.uneven * (0.9 * side + 0.7 * coarse + 0.5 * middle), 0.05, 2.5)
    lines = lattice(x + 0.30 * coarse + 0.10 * middle, y + 0.30 * middle) * jnp.clip(0.7 + 0.5 * coarse, 0.0, 1.0)
    dots = inside(0.9 - fine, 0.5)
    melanin = lesion.melanin * patchy * (1.0 + lesion.network * lines + 0.9 * lesion.globules * dots)
    deep = lesion.deep * inside(0.4 - middle - 0.5 * side, 0.7) + lesion.nests * inside(0.8 - middle, 0.3)
    branches = jnp.exp(-0.5 * jnp.square(fine / 0.10)) * inside(-0.4 - middle, 1.0)
    lagoons = inside(-0.1 - middle, 0.4)
    blood = lesion.blood * patchy + 0.9 * lesion.vessels * branches + lesion.lacunae * lagoons
    scar = lesion.scar * jnp.exp(-0.5 * jnp.square(x * x + y * y) / (0.5 * lesion.radius) ** 4)
    specks = jnp.clip(lesion.keratin * inside(0.7 - grain, 0.6) + 0.6 * scar, 0.0, 1.0)[..., None]
    pigment = here * (1.0 - 0.85 * scar)
    density = (
        (person.melanin * (1.0 + 0.08 * coarse) + pigment * melanin)[..., None] * MELANIN
        + (pigment * deep)[..., None] * DEEP
        + (person.blood * (1.0 + 0.25 * middle) + pigment * blood)[..., None] * BLOOD
    )
    left = jnp.exp(-density) * SKIN
    seen = left + here[..., None] * specks * (KERATIN - left)
    return seen * (1.0 - 0.9 * hair(person, x, y))[..., None], here


def lattice(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns a net of brown lines about 0.4 mm apart, from -1 in its holes to 1 on its lines."""
    waves = [jnp.cos(2.0 * jnp.pi / 0.42 * turn(x, y, degrees)[0]) for degrees in (0.0, 60.0, 120.0)]
    return jnp.clip(-0.9 * sum(waves[1:], start=waves[0]), -1.0, 1.0)


def hair(person: Person, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the opacity of hairs, [S, S]: thin bent lines across the picture."""
    angle, place, bend, width = (person.hairs[:, i, None, None] for i in range(4))
    along, across = turn(x[None], y[None], 360.0 * angle)
    distance = across - 12.0 * (place - 0.5) - 0.06 * (bend - 0.5) * jnp.square(along)
    return person.hairy * jnp.max(inside(jnp.abs(distance) - 0.03 - 0.05 * width, 0.08), 0)
