"""Synthetic dermoscopic pictures of seven kinds of skin lesion, from hospitals whose cameras differ."""

import functools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.contract import Batch, Federation, Table, Test

from . import procedural
from .cases import CaseMix, Range, diagnose, draw_uniform, skewed
from .dermoscopy import CLASSES, HAIRS, Lesion, Person, colours, draw_lesion
from .procedural import Pictures, quartile_rows, require, site_table
from .shapes import textures

SHARES = (327, 514, 1099, 115, 1113, 6705, 142)  # pictures of each class in HAM10000


@dataclass(frozen=True)
class SkinSites(CaseMix):
    """Distributions from which a hospital with a dermatoscope is drawn; ranges are uniform."""

    class_share: tuple[float, ...] = tuple(share / sum(SHARES) for share in SHARES)  # over all sites
    skin_melanin: Range = (0.02, 0.12)  # of the site's patients on average
    warmth: Range = (-0.06, 0.06)  # of the white balance: red up by this share, blue down
    exposure: Range = (0.85, 1.05)
    gamma: Range = (0.85, 1.15)
    vignette: Range = (0.0, 0.5)  # light lost in the corners
    blur: Range = (0.02, 0.06)  # mm
    noise: Range = (0.005, 0.025)  # share of white
    field_of_view: Range = (14.0, 18.0)  # mm
    hairy: float = 0.2  # share of patients


class SkinSite(NamedTuple):
    """One hospital: scalars but for `class_mix`; units as in `SkinSites`."""

    skin_melanin: jax.Array
    warmth: jax.Array
    exposure: jax.Array
    gamma: jax.Array
    vignette: jax.Array
    blur: jax.Array
    noise: jax.Array
    field_of_view: jax.Array
    class_mix: jax.Array  # [7]
    patients: jax.Array  # int32


class SkinPatient(NamedTuple):
    """All that is drawn of one patient before there is a picture."""

    label: jax.Array  # int32, class
    lesion: Lesion
    person: Person
    place: jax.Array  # standard normal [2]: to the right, up
    looks: jax.Array  # key of the textures
    noise: jax.Array  # key of the camera's noise


@dataclass(frozen=True)
class Skin:
    """Synthetic dermoscopic pictures of the seven classes of HAM10000, in colour, from hospitals that differ."""

    clients: int = 100
    test_clients: int = 20  # unseen sites; as many training sites are tested on new patients
    test_patients: int = 16  # per site of either test set
    validation_patients: int | None = None  # new ones of the training sites tested; None: as many as test; 0: none
    size: int = 64  # pixels
    contrast: float = 1.0  # scale of the pigments of a lesion; small: hard to see
    sites: SkinSites = field(default_factory=SkinSites)

    def build(self, seed: int) -> Federation:
        """Returns the federation; no picture is made here. Raises UserError on a setting that makes no sense."""
        procedural.check(self, CLASSES, signed=("sites.warmth",))
        require("size", self.size, self.size >= 16, "give 16 pixels or more")
        require("sites.hairy", self.sites.hairy, self.sites.hairy <= 1, "give a share from 0 to 1")
        federation, sites = procedural.federation(self, pictures(self), CLASSES, seed)
        traits = quartile_rows({"patients": sites.patients, "noise, %": 100 * sites.noise, "warmth": sites.warmth})
        return federation._replace(
            image=(self.size, self.size, 3), tables=(site_table("Sites of the skin phantom", traits),)
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns the test sets. Raises UserError where the saved model does not know a class."""
        return procedural.evaluation(self.build(seed), classes), ()


def pictures(skin: Skin) -> Pictures:
    """Returns how a lesion is drawn: image [B, S, S, 3] in 0..1, mask [B, S, S, 1], label [B] (`picture`)."""
    return _pictures(skin.size, skin.contrast, replace(skin.sites, class_alpha=1.0))


@functools.cache
def _pictures(size: int, contrast: float, sites: SkinSites) -> Pictures:
    return Pictures(
        skewed(draw_site, sites),
        functools.partial(draw_patient, contrast, sites.hairy),
        functools.partial(picture, size),
    )


def draw_site(model: SkinSites, key: jax.Array) -> SkinSite:
    """Returns one hospital drawn from its key."""
    return draw_uniform(SkinSite, model, key)


def draw_patient(contrast: float, hairy: float, site: SkinSite, key: jax.Array) -> SkinPatient:
    """Returns a patient of `site`, by the patient's own key."""
    label = diagnose(site, key)
    growth, body, lines, place, looks, noise = jax.random.split(jax.random.fold_in(key, 1), 6)
    tone, blood, hair = jax.random.uniform(body, (3,), jnp.float32)
    person = Person(
        site.skin_melanin * (0.5 + tone),
        0.03 + 0.10 * blood,
        (hair < hairy).astype(jnp.float32),
        jax.random.uniform(lines, (HAIRS, 4), jnp.float32),
    )
    centre = jax.random.normal(place, (2,), jnp.float32)
    return SkinPatient(label, draw_lesion(growth, label, contrast), person, centre, looks, noise)


def picture(size: int, site: SkinSite, patient: SkinPatient) -> Batch:
    """Returns one picture: label (), image [S, S, 3] in 0..1, mask [S, S, 1], the lesion's share of each pixel."""
    pixel = site.field_of_view / size
    line = (jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2) * pixel
    right, up = patient.place
    x, y = jnp.broadcast_arrays(line[None, :] - 0.7 * right, -line[:, None] - 0.7 * up)
    seen, mask = colours(patient.lesion, patient.person, x, y, textures(patient.looks, size, (4, 10, 24, 48)))
    image = photographed(patient.noise, seen, site, line)
    return {"label": patient.label, "image": image, "mask": mask[..., None]}


def photographed(key: jax.Array, seen: jax.Array, site: SkinSite, line: jax.Array) -> jax.Array:
    """Returns the camera's picture [S, S, 3] in 0..1 of colours [S, S, 3].

    `line` [S] is where its pixels are, in mm.
    """
    square = jnp.square(line)[:, None] + jnp.square(line)[None, :]
    light = site.exposure * (1.0 - site.vignette * square / jnp.square(0.7 * site.field_of_view))
    balance = 1.0 + site.warmth * np.array([[[1.0, 0.0, -1.0]]], np.float32)
    weights = jnp.exp(-0.5 * jnp.square((line[:, None] - line[None, :]) / site.blur))
    weights = weights / weights.sum(1, keepdims=True)
    sharp = seen * light[..., None] * balance
    soft = jnp.einsum("yh,xw,hwc->yxc", weights, weights, sharp, precision="float32")
    noisy = soft + site.noise * jax.random.normal(key, seen.shape, jnp.float32)
    return jnp.clip(noisy, 1e-3, 1.0) ** site.gamma
