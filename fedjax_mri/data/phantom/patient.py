"""One synthetic patient: an anatomy, a diagnosis, and the registered CT and MR of one slice."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.data.contract import Batch

from .anatomy import (
    Head,
    Plane,
    Texture,
    base_layers,
    beyond_cavity,
    cerebrum_layers,
    draw_head,
    hindbrain_layers,
    skull_layers,
)
from .cases import diagnose
from .lesions import (
    Distractor,
    Lesion,
    LesionModel,
    distractor_layers,
    draw_distractor,
    draw_height,
    draw_lesion,
    draw_visible,
    push_aside,
    tumour_distance,
    tumour_layers,
    tumour_oedema,
    without,
)
from .physics import properties
from .scanner import patient_tissues, rician_mean, scan_ct, scan_mr, show_mr, tissue_signals, white_mr
from .shapes import composite, expand, field_basis, inside, turn
from .site import Site, SiteModel


class Patient(NamedTuple):
    """All that is drawn of one patient before there is a picture."""

    label: jax.Array  # int32, class
    visible: jax.Array  # float32 [2], whether CT and MR show the tumour
    head: Head
    lesion: Lesion
    distractor: Distractor
    pose: jax.Array  # standard normal [3]: turned, to the right, up
    hu: jax.Array  # HU [T]
    signals: jax.Array  # [T], MR magnitude of each tissue by the site's sequence, without noise
    reference: jax.Array  # that of the tissue to which the site's noise refers
    looks: jax.Array  # key of the textures
    mr: jax.Array  # key of the MR's noise
    ct: jax.Array  # key of the CT's noise


def draw_patient(sites: SiteModel, lesions: LesionModel, site: Site, key: jax.Array) -> Patient:
    """Returns a patient of `site`, by the patient's own key."""
    label = diagnose(site, key)
    level, body, growth, other, pose, chemistry, looks, mr, ct = jax.random.split(jax.random.fold_in(key, 1), 9)
    head = draw_head(body, draw_height(level, label, lesions))
    lesion = draw_lesion(growth, label, head, lesions)
    distractor = draw_distractor(other, label, head, lesions)
    tissues = patient_tissues(chemistry, site, lesion, lesions)
    signals, reference = tissue_signals(site, tissues, sites)
    turned, visible = jax.random.normal(pose, (3,), jnp.float32), draw_visible(jax.random.fold_in(key, 2), lesions)
    return Patient(label, visible, head, lesion, distractor, turned, tissues.hu, signals, reference, looks, mr, ct)


def picture(sites: SiteModel, lesions: LesionModel, size: int, site: Site, patient: Patient) -> Batch:
    """Returns all that is known of one patient.

    It is label (), mr, ct, tissue and mask [S, S, channels], visible [2], signals [T].

    `visible` says whether CT and MR show the tumour; one that does not shows the head as it was before. `signals` are
    the mean magnitudes, noise included, that the site's sequence gives of each tissue by the book, in the units of this
    patient's `mr`.
    """
    head, lesion, distractor = patient.head, patient.lesion, patient.distractor
    plane, texture = image_plane(patient.pose, site, sites.tilt, size), draw_texture(patient.looks, size)
    tissue, mask = anatomy(head, lesion, distractor, plane, texture)
    in_ct, in_mr = tissue, tissue
    if lesions.one_modality:
        before, _ = anatomy(head, without(lesion), distractor, plane, texture)
        in_ct, in_mr = (trees.select(shows > 0, tissue, before) for shows in patient.visible)

    scan = scan_mr(patient.mr, in_mr, patient.signals, patient.reference, site, texture.bias)
    ct = scan_ct(patient.ct, in_ct, patient.hu, site, plane.pixel)
    maps = {
        "mr": show_mr(scan)[..., None],
        "ct": ct[..., None],
        "tissue": jnp.stack(tissue, -1),
        "mask": mask[..., None],
    }
    signals = textbook(site, sites) / white_mr(scan)
    return {"label": patient.label, "visible": patient.visible, "signals": signals, **maps}


def textbook(site: Site, sites: SiteModel) -> jax.Array:
    """Returns the mean magnitude [T] of each tissue in the site's MR, for tissues as books have them."""
    signals, reference = tissue_signals(site, properties(site.field), sites)
    return rician_mean(signals, site.mr_noise * reference)


def anatomy(
    head: Head, lesion: Lesion, distractor: Distractor, plane: Plane, texture: Texture
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Returns tissue memberships, T maps [S, S], and the tumour's own [S, S]."""
    beyond = beyond_cavity(head, plane.x, plane.y)
    edge = tumour_distance(plane, lesion, texture)
    thickening = lesion.thickening * inside(edge - 6.0, 12.0)
    moved = push_aside(plane, lesion)
    bent = moved._replace(x=moved.x + 1.2 * texture.bend_x, y=moved.y + 1.6 * texture.bend_y)
    tissue = composite(
        [
            *skull_layers(head, plane, beyond, texture, thickening),
            *tumour_layers(plane, lesion, texture, edge, beyond),
            *base_layers(head, plane),
            *distractor_layers(plane, distractor, texture),
            *hindbrain_layers(head, bent),
            *cerebrum_layers(head, bent, beyond, texture, tumour_oedema(lesion, texture, edge)),
        ]
    )
    return tissue, inside(edge, plane.pixel) * inside(beyond + thickening, plane.pixel)


def image_plane(pose: jax.Array, site: Site, tilt: float, size: int) -> Plane:
    """Returns the pixel positions in a head that lies turned and off centre in the field of view, by `pose` [3]."""
    turned, right, up = pose
    pixel = site.field_of_view / size
    line = (jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2) * pixel
    x, y = jnp.broadcast_to(line[None, :], (size, size)), jnp.broadcast_to(-line[:, None], (size, size))
    x, y = turn(x - 2.0 * right, y - 3.0 * up, tilt * turned)
    return Plane(x, y, pixel)


def draw_texture(key: jax.Array, size: int) -> Texture:
    """Returns the slice's random fields: three at a quarter of the field of view, four at a fourteenth."""
    coarse, fine = jax.random.split(key)
    wide_weights = jax.random.normal(coarse, (3, 4, 4), jnp.float32)
    weights = jax.random.normal(fine, (4, 14, 14), jnp.float32)
    (wide, _), (bumps, slope) = field_basis(size, 4), field_basis(size, 14)
    bend_x, bend_y, bias = expand(wide_weights, wide, wide)
    fold, depth, edge, grain = expand(weights, bumps, bumps)
    fold_x, fold_y = expand(weights[0], bumps, slope), -expand(weights[0], slope, bumps)
    return Texture(bend_x, bend_y, bias, fold, fold_x, fold_y, depth, edge, grain)
