"""Tissue properties and MR signal equations: HU, ms, mM and T throughout."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Tissue(NamedTuple):
    """What a scanner can know of one tissue; published means where there are any, design values elsewhere."""

    hu: float  # Hounsfield units at 120 kVp
    hu_sd: float  # HU, between patients
    t1: tuple[float, float]  # ms at 1.5 T and 3 T
    t2: tuple[float, float]  # ms at 1.5 T and 3 T
    pd: float  # proton density, CSF = 1
    gadolinium: float  # mM after contrast


TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000, 0, (1000, 1000), (50, 50), 0.0, 0),
    "fat": Tissue(-75, 8, (245, 370), (70, 70), 1.0, 0),
    "muscle": Tissue(50, 3, (1008, 1412), (44, 50), 1.0, 0.02),
    "cortical bone": Tissue(1200, 120, (250, 250), (3, 3), 0.05, 0),
    "diploe": Tissue(500, 60, (420, 520), (55, 55), 0.55, 0.01),
    "csf": Tissue(7, 2, (4300, 4300), (2200, 2200), 1.0, 0),
    "grey matter": Tissue(39, 0.8, (1197, 1607), (95, 99), 0.86, 0.008),
    "white matter": Tissue(28, 0.8, (646, 838), (72, 69), 0.77, 0.004),
    "blood": Tissue(56, 4, (1441, 1932), (290, 275), 0.9, 0.35),
    "glioma": Tissue(28, 3, (1400, 1600), (145, 145), 0.87, 0.24),
    "meningioma": Tissue(52, 3, (1150, 1400), (85, 85), 0.87, 0.30),
    "adenoma": Tissue(38, 3, (1150, 1400), (95, 95), 0.87, 0.22),
    "necrosis": Tissue(10, 2, (2600, 2900), (400, 380), 0.95, 0),
    "oedema": Tissue(17, 2, (1250, 1450), (135, 135), 0.9, 0.02),
    "calcification": Tissue(350, 80, (600, 700), (15, 15), 0.25, 0),
    "haematoma": Tissue(68, 4, (550, 650), (70, 60), 0.9, 0),
}
NAMES = tuple(TISSUES)
(
    AIR,
    FAT,
    MUSCLE,
    CORTICAL,
    DIPLOE,
    CSF,
    GREY,
    WHITE,
    BLOOD,
    GLIOMA,
    MENINGIOMA,
    ADENOMA,
    NECROSIS,
    OEDEMA,
    CALCIFICATION,
    HAEMATOMA,
) = range(len(NAMES))

# longitudinal relaxivity of gadolinium chelates, 1/(s mM), at 1.5 T and 3 T
RELAXIVITY = (4.5, 4.0)


class Properties(NamedTuple):
    """The tissue table at one field strength, or for one patient; every field is [T]."""

    hu: jax.Array  # HU
    t1: jax.Array  # ms
    t2: jax.Array  # ms
    pd: jax.Array
    gadolinium: jax.Array  # mM


def column(field: str, tesla: int | None = None) -> np.ndarray:
    """Returns one column of the table, float32 [T]; `tesla` 0 for 1.5 T and 1 for 3 T where the column has both."""
    values = [getattr(tissue, field) for tissue in TISSUES.values()]
    return np.asarray(values if tesla is None else [v[tesla] for v in values], np.float32)


def properties(field_tesla: jax.Array) -> Properties:
    """Returns the mean table at `field_tesla` (scalar, 1.5 or 3)."""
    high = field_tesla > 2.0
    t1 = jnp.where(high, column("t1", 1), column("t1", 0))
    t2 = jnp.where(high, column("t2", 1), column("t2", 0))
    return Properties(jnp.asarray(column("hu")), t1, t2, jnp.asarray(column("pd")), jnp.asarray(column("gadolinium")))


def enhanced_t1(t1: jax.Array, gadolinium: jax.Array, relaxivity: jax.Array) -> jax.Array:
    """Returns T1 in ms after contrast, 1/T1' = 1/T1 + r1 C; t1 in ms, gadolinium in mM, relaxivity in 1/(s mM)."""
    return 1.0 / (1.0 / t1 + 1e-3 * relaxivity * gadolinium)


def spin_echo(t1: jax.Array, t2: jax.Array, pd: jax.Array, tr: jax.Array, te: jax.Array) -> jax.Array:
    """Returns the magnitude of a spin echo; times in ms."""
    return pd * (1.0 - jnp.exp(-tr / t1)) * jnp.exp(-te / t2)


def inversion_recovery(
    t1: jax.Array, t2: jax.Array, pd: jax.Array, tr: jax.Array, te: jax.Array, ti: jax.Array
) -> jax.Array:
    """Returns the magnitude of an inversion recovery, which is FLAIR when TI nulls CSF; times in ms."""
    recovery = 1.0 - 2.0 * jnp.exp(-ti / t1) + jnp.exp(-tr / t1)
    return jnp.abs(pd * recovery) * jnp.exp(-te / t2)


def null_time(t1: jax.Array, tr: jax.Array) -> jax.Array:
    """Returns the inversion time in ms at which a tissue of `t1` ms gives no signal."""
    return t1 * jnp.log(2.0 / (1.0 + jnp.exp(-tr / t1)))


def spoiled_gradient_echo(
    t1: jax.Array, t2_star: jax.Array, pd: jax.Array, tr: jax.Array, te: jax.Array, flip: jax.Array
) -> jax.Array:
    """Returns the magnitude of a spoiled gradient echo; times in ms, flip angle in degrees."""
    angle, e1 = jnp.deg2rad(flip), jnp.exp(-tr / t1)
    return pd * jnp.sin(angle) * (1.0 - e1) / (1.0 - jnp.cos(angle) * e1) * jnp.exp(-te / t2_star)
