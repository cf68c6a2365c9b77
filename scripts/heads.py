"""Synthetic heads with known truth for `scripts/prepare_accuracy.py` and the tests: volumes of the phantom's slices.

One patient is cut at many heights, so that the slices are one head from below the sella to the vertex. Textures change
smoothly from slice to slice, and so does the field of the MR's coil, which is known.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.phantom import patient, physics, scanner, site
from fedjax_mri.data.phantom.lesions import LesionModel, without

BOTTOM, HEIGHT = -8.0, 128.0  # mm from the floor of the sella, and from there to above the vertex
CAVITY = 99.0  # mm; above it there is no brain
MAX_THICKENING = 2.5  # times as thick as the skull is in a slice, at most, where it is cut aslant
CAP = 16.0  # mm, height of bone and skin above the brain
NOT_BRAIN = [physics.AIR, physics.FAT, physics.MUSCLE, physics.CORTICAL, physics.DIPLOE]
HEALTHY = LesionModel(distractors=0.0, distractors_elsewhere=0.0)


class Heads(NamedTuple):
    """CT and MR of a head, or of several, and what is true of it; arrays [..., D, H, W]."""

    ct: jax.Array  # HU
    mr: jax.Array  # magnitude
    brain: jax.Array  # 0..1, the share of what lies within the skull's inner table
    field: jax.Array  # by which the coil has multiplied the MR
    spacing: jax.Array  # mm, [..., 3]


def draw_site(key: jax.Array, protocol: str | None = None, bias: float | None = None) -> site.Site:
    """A hospital of the phantom; by its MR sequence and the peak to peak of its field, where given."""
    one = site.draw_site(site.SiteModel(), key)
    if bias is not None:
        one = one._replace(bias_field=jnp.float32(bias))
    if protocol is None:
        return one
    wanted = getattr(site.SiteModel(), protocol)
    means = {name: jnp.float32(np.mean(getattr(wanted, name))) for name in ("tr", "te", "flip")}
    return one._replace(protocol=jnp.int32(list(site.SiteModel().protocols.values()).index(wanted)), **means)


def slice_of(one: patient.Patient, plane: patient.Plane, texture: patient.Texture, z: jax.Array) -> list[jax.Array]:
    """The tissues at a height, T maps [S, S]: the phantom's slice, with a vault that is closed above the brain."""
    up = (jnp.minimum(z, CAVITY) - 22.0) / 78.0
    slope = 65.0 / 78.0 * up / jnp.sqrt(1.0 - up**2)  # of the ellipsoid that `anatomy.cavity_radius` cuts
    aslant = jnp.minimum(jnp.sqrt(1.0 + slope**2), MAX_THICKENING)
    above = jnp.clip((z - CAVITY) / CAP, 0.0, 1.0)
    shrink = 1.0 / jnp.sqrt(jnp.maximum(1.0 - above**2, 1e-4))
    head = one.head._replace(z=jnp.minimum(z, CAVITY), skull=aslant * one.head.skull, scalp=aslant * one.head.scalp)
    plane = plane._replace(x=plane.x * shrink, y=plane.y * shrink)
    tissue, _ = patient.anatomy(head, without(one.lesion), one.distractor, plane, texture)
    skin = [physics.AIR, physics.FAT, physics.MUSCLE]
    rest = 1.0 - sum(tissue[i] for i in skin)
    bone = (z < CAVITY + one.head.skull).astype(jnp.float32)
    capped = [x if i in skin else jnp.where(i == physics.CORTICAL, rest * bone, 0.0) for i, x in enumerate(tissue)]
    capped[physics.FAT] = capped[physics.FAT] + rest * (1.0 - bone)
    return [jnp.where(z > CAVITY, a, b) for a, b in zip(capped, tissue)]


@partial(jax.jit, static_argnames=("slices", "size"))
def head(key: jax.Array, where: site.Site, slices: int, size: int) -> Heads:
    """A patient of a site as `slices` axial slices of size x size pixels, the lowest first."""
    sites, one = site.SiteModel(), patient.draw_patient(site.SiteModel(), HEALTHY, where, key)
    plane = patient.image_plane(one.pose, where, sites.tilt, size)
    low, high = (patient.draw_texture(key, size) for key in jax.random.split(one.looks))
    spacing = HEIGHT / slices
    heights = BOTTOM + spacing * jnp.arange(slices, dtype=jnp.float32)

    def cut(z: jax.Array, keys: jax.Array) -> tuple[jax.Array, ...]:
        texture = jax.tree.map(lambda a, b: jnp.cos(z / 40) * a + jnp.sin(z / 40) * b, low, high)
        tissue = slice_of(one, plane, texture, z)
        mr = scanner.scan_mr(keys[0], tissue, one.signals, one.reference, where, texture.bias)
        ct = scanner.scan_ct(keys[1], tissue, one.hu, where, plane.pixel)
        brain = 1.0 - sum(tissue[i] for i in NOT_BRAIN)
        return ct, mr, brain, scanner.bias_field(texture.bias, where.bias_field)

    keys = jax.random.split(jax.random.fold_in(key, 3), (slices, 2))
    found = jax.lax.map(lambda both: cut(*both), (heights, keys))
    return Heads(*found, jnp.stack([jnp.float32(spacing), plane.pixel, plane.pixel]))  # type: ignore[call-arg]
