"""Synthetic chest radiographs, normal or with pneumonia, from hospitals whose X-ray machines differ."""

import functools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.data.contract import Batch, Federation, Table, Test

from . import procedural
from .cases import CaseMix, Range, between, diagnose, draw_uniform, skewed
from .procedural import Pictures, quartile_rows, require, site_table
from .radiograph import HIGH, LOW, SPECKS, Chest, Opacity, exposed, optical_depth, trace
from .shapes import textures, turn

CLASSES = ("normal", "pneumonia")


@dataclass(frozen=True)
class ThoraxSites(CaseMix):
    """Distributions from which a hospital with an X-ray machine is drawn; ranges are uniform."""

    class_share: tuple[float, float] = (0.27, 0.73)  # over all sites; as in Kermany et al., Cell 2018
    bone: Range = (0.035, 0.055)  # attenuation of bone, 1/mm: less at a higher tube voltage
    scatter: Range = (0.03, 0.20)  # share of scattered rays behind the grid
    noise: Range = (0.01, 0.04)  # relative, at the mean exposure
    blur: Range = (0.3, 1.2)  # mm
    latitude: Range = (0.75, 1.25)  # optical depth over which the display goes from black to white; small: hard
    brightness: Range = (-0.9, -0.3)  # of the optical depth shown as mid grey, to the mean of soft tissue
    field_of_view: Range = (330.0, 390.0)  # mm
    tilt: float = 3.0  # degrees, standard deviation of a patient's rotation


class ThoraxSite(NamedTuple):
    """One hospital: scalars but for `class_mix`; units as in `ThoraxSites`."""

    bone: jax.Array
    scatter: jax.Array
    noise: jax.Array
    blur: jax.Array
    latitude: jax.Array
    brightness: jax.Array
    field_of_view: jax.Array
    class_mix: jax.Array  # [2]
    patients: jax.Array  # int32


class ThoraxPatient(NamedTuple):
    """All that is drawn of one patient before there is a picture."""

    label: jax.Array  # int32, class
    chest: Chest
    opacity: Opacity
    pose: jax.Array  # standard normal [3]: turned, to the right, up
    looks: jax.Array  # key of the textures
    quanta: jax.Array  # key of the noise


@dataclass(frozen=True)
class Thorax:
    """Synthetic chest X-rays, normal or with pneumonia, from hospitals that differ."""

    clients: int = 100
    test_clients: int = 20  # unseen sites; as many training sites are tested on new patients
    test_patients: int = 16  # per site of either test set
    validation_patients: int | None = None  # new ones of the training sites tested; None: as many as test; 0: none
    size: int = 64  # pixels
    density: float = 1.0  # scale of the share of air that pneumonia replaces; small: hard to see
    sites: ThoraxSites = field(default_factory=ThoraxSites)

    def build(self, seed: int) -> Federation:
        """Returns the federation; no picture is made here. Raises UserError on a setting that makes no sense."""
        procedural.check(self, CLASSES, signed=("sites.brightness",))
        require("size", self.size, self.size >= 16, "give 16 pixels or more")
        require("density", self.density, self.density <= 1, "give a share from 0 to 1")
        federation, sites = procedural.federation(self, pictures(self), CLASSES, seed)
        traits = quartile_rows({"patients": sites.patients, "noise, %": 100 * sites.noise, "scatter": sites.scatter})
        return federation._replace(
            image=(self.size, self.size, 1), tables=(site_table("Sites of the thorax phantom", traits),)
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns the test sets. Raises UserError where the saved model does not know a class."""
        return procedural.evaluation(self.build(seed), classes), ()


def pictures(thorax: Thorax) -> Pictures:
    """Returns how a thorax is drawn: image, depth, mask [B, S, S, 1], label [B] (`picture`)."""
    return _pictures(thorax.size, thorax.density, replace(thorax.sites, class_alpha=1.0))


@functools.cache
def _pictures(size: int, density: float, sites: ThoraxSites) -> Pictures:
    return Pictures(
        skewed(draw_site, sites), functools.partial(draw_patient, density), functools.partial(picture, sites.tilt, size)
    )


def draw_site(model: ThoraxSites, key: jax.Array) -> ThoraxSite:
    """Returns one hospital drawn from its key."""
    return draw_uniform(ThoraxSite, model, key)


def draw_patient(density: float, site: ThoraxSite, key: jax.Array) -> ThoraxPatient:
    """Returns a patient of `site`, by the patient's own key."""
    label = diagnose(site, key)
    body, foci, pose, looks, quanta = jax.random.split(jax.random.fold_in(key, 1), 5)
    share = jax.random.uniform(body, (len(Chest._fields),), jnp.float32)
    chest = Chest(*(low + (high - low) * share[i] for i, (low, high) in enumerate(zip(LOW, HIGH))))
    opacity = draw_opacity(foci, label, density)
    return ThoraxPatient(label, chest, opacity, jax.random.normal(pose, (3,), jnp.float32), looks, quanta)


def draw_opacity(key: jax.Array, label: jax.Array, density: float) -> Opacity:
    """Returns the foci of a patient: one dense lobe, or several thin ones in both lungs; none of a normal chest."""
    kind, place = jax.random.split(key)
    dense, on_right = jax.random.uniform(kind, (2,), jnp.float32) < 0.5
    u, number = jax.random.uniform(place, (5, SPECKS), jnp.float32), jnp.arange(SPECKS, dtype=jnp.int32)
    few, many = jnp.where(u[4, 0] < 0.3, 2.0, 1.0), 3.0 + jnp.floor((SPECKS - 2) * u[4, 0])
    count = jnp.where(dense, few, many).astype(jnp.int32)
    side = jnp.where(on_right, -1.0, 1.0) * jnp.where(dense | (number % 2 == 0), 1.0, -1.0)
    radius = jnp.where(dense, between((32.0, 52.0), u[2]), between((18.0, 34.0), u[2]))
    filled = jnp.where(dense, between((0.55, 0.9), u[3]), between((0.30, 0.6), u[3]))
    here = (label == CLASSES.index("pneumonia")) & (number < count)
    x, y = side * between((52.0, 100.0), u[0]), between((-80.0, 70.0), u[1])
    return Opacity(x, y, jnp.where(here, radius, 0.0), density * filled)


def picture(tilt: float, size: int, site: ThoraxSite, patient: ThoraxPatient) -> Batch:
    """Returns one radiograph: label (), and image, depth and mask, [S, S, 1] each.

    The image is in 0..1. `depth` is the optical depth without the detector, and `mask` the share of the lung's air that
    pneumonia has replaced.
    """
    turned, right, up = patient.pose
    line = (jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2) * site.field_of_view / size
    x, y = turn(line[None, :] - 4.0 * right, -line[:, None] - 6.0 * up, tilt * turned)
    rays = trace(patient.chest, patient.opacity, x, y, textures(patient.looks, size, (5, 22, 10)))
    depth = optical_depth(rays, site.bone)
    reading = exposed(patient.quanta, depth, site.scatter, site.noise, site.blur * size / site.field_of_view)
    middle = jnp.sum(reading * rays.soft) / jnp.sum(rays.soft) + site.brightness
    shown = jax.nn.sigmoid((reading - middle) / site.latitude)
    return {
        "label": patient.label,
        "image": shown[..., None],
        "depth": depth[..., None],
        "mask": rays.opacity[..., None],
    }
