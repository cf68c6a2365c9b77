"""The phantom as a source of data: any number of synthetic hospitals, every example computed where it is used."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import UserError
from ..client_data import Batch, ClientData, Federation, Table, Test
from .lesions import CLASSES, LesionModel
from .patient import diagnose, examine
from .scanner import show_ct
from .site import Site, SiteModel, draw_site

SIZES = (64, 128, 240, 256)
UNSEEN = 2**30  # first site that takes no part in training
NEW = 2**30  # first patient who takes no part in training


@dataclass(frozen=True)
class Phantom:
    """Synthetic CT and MR of glioma, meningioma, pituitary tumour and no tumour, from hospitals that differ."""

    clients: int = 1000
    test_clients: int = 100  # unseen sites; as many training sites are tested on new patients
    test_patients: int = 16  # per site of either test set
    size: int = 64  # pixels
    image: Literal["mr", "ct"] = "mr"  # what the classifier sees
    sites: SiteModel = SiteModel()
    lesions: LesionModel = LesionModel()

    def build(self, seed: int) -> Federation:
        """The federation; no picture is made here. Raises UserError on a setting that makes no sense."""
        check(self)
        sites, labels = census(self, seed, self.clients)
        seen = min(self.test_clients, self.clients)
        data = partial(ClientData, store=())
        ours = np.full(seen, self.test_patients, np.int32)
        theirs = np.full(self.test_clients, self.test_patients, np.int32)
        return Federation(
            train=data(sites.patients, read=reader(self, seed)),
            tests={
                "unseen sites": Test(
                    data(theirs, read=reader(self, seed, first_site=UNSEEN)), np.full(self.test_clients, -1, np.int32)
                ),
                "seen sites": Test(data(ours, read=reader(self, seed, first_patient=NEW)), np.arange(seen, dtype=np.int32)),
            },
            classes=CLASSES,
            labels=labels,
            tables=(site_table(self.sites, sites),),
        )


def reader(phantom: Phantom, seed: int, first_site: int = 0, first_patient: int = 0) -> Any:
    """`read` of a ClientData: image [B, S, S, 1] in 0..1, label [B], mr in 0..1, ct in HU, tissue [.., T] and mask."""

    def read(store: Any, client: jax.Array, indices: jax.Array) -> Batch:
        site, patients = open_site(phantom.sites, seed, client + first_site)
        keys = jax.vmap(partial(jax.random.fold_in, patients))(indices + first_patient)
        batch = jax.vmap(partial(examine, phantom.sites, phantom.lesions, phantom.size, site))(keys)
        return {"image": show_ct(batch["ct"]) if phantom.image == "ct" else batch["mr"], **batch}

    return read


def open_site(model: SiteModel, seed: int, client: jax.Array) -> tuple[Site, jax.Array]:
    """A site, and the key from which its patients are drawn."""
    traits, patients = jax.random.split(jax.random.fold_in(jax.random.key(seed), client))
    return draw_site(model, traits), patients


def census(phantom: Phantom, seed: int, clients: int) -> tuple[Site, np.ndarray]:
    """Traits of every training site, fields [N, ...], and its patients per class, int32 [N, C]; draws no picture."""

    def count(client: jax.Array) -> tuple[Site, jax.Array]:
        site, patients = open_site(phantom.sites, seed, client)
        index = jnp.arange(phantom.sites.patients_max)
        labels = jax.vmap(lambda i: diagnose(site, jax.random.fold_in(patients, i)))(index)
        labels = jnp.where(index < site.patients, labels, len(CLASSES))
        return site, jnp.bincount(labels, length=len(CLASSES) + 1)[: len(CLASSES)].astype(jnp.int32)

    every = jax.jit(lambda ids: jax.lax.map(count, ids, batch_size=256))
    sites, labels = jax.device_get(every(jnp.arange(clients)))
    return sites, labels


def site_table(model: SiteModel, sites: Site) -> Table:
    """Field strengths, sequences and the quartiles of every measured trait."""
    rows: list[tuple[Any, ...]] = [(f"{tesla:g} T", f"{np.mean(sites.field == tesla):.0%}") for tesla in (1.5, 3.0)]
    rows += [(name, f"{np.mean(sites.protocol == i):.0%}") for i, name in enumerate(model.protocols)]
    measured = {
        "patients": sites.patients,
        "MR noise, %": 100 * sites.mr_noise,
        "bias field, %": 100 * sites.bias_field,
        "CT noise, HU": sites.ct_noise,
        "CT blur, mm": sites.ct_blur,
        "field of view, mm": sites.field_of_view,
    }
    for name, values in measured.items():
        rows.append((name, " / ".join(f"{q:.3g}" for q in np.percentile(values, (25, 50, 75)))))
    note = "Synthetic hospitals. Share of the training sites, or quartiles over them."
    return Table("Sites of the phantom", ("trait", "share or quartiles"), rows, note)


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of every number in nested dataclasses."""
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            yield from settings(value, name + ".")
        else:
            yield name, value


def check(phantom: Phantom) -> None:
    """Raises UserError on the first setting that makes no sense."""
    for name, value in settings(phantom):
        require(name, value, finite(value), "give a finite number")
        if isinstance(value, tuple) and len(value) == 2:
            require(name, value, value[0] <= value[1], "give the lower limit first")
        if name not in ("size", "image"):
            require(name, value, least_of(value) >= 0, "give 0 or more")
    sites, lesions = phantom.sites, phantom.lesions
    for name, low in (("clients", 1), ("test_clients", 1), ("test_patients", 1)):
        require(name, getattr(phantom, name), getattr(phantom, name) >= low, f"give at least {low}")
    require("size", phantom.size, phantom.size in SIZES, f"choose one of {', '.join(map(str, SIZES))}")
    require("image", phantom.image, phantom.image in ("mr", "ct"), "choose mr or ct")
    require("sites.class_alpha", sites.class_alpha, sites.class_alpha > 0, "give a number above 0")
    require("sites.class_share", sites.class_share, min(sites.class_share) > 0, "give every class a share above 0")
    require("sites.patients_mean", sites.patients_mean, sites.patients_mean > 0, "give a number above 0")
    limits = (sites.patients_min, sites.patients_max)
    require("sites.patients_min, patients_max", limits, 1 <= limits[0] <= limits[1], "give 1 <= min <= max")
    require("sites.three_tesla", sites.three_tesla, sites.three_tesla <= 1, "give a share from 0 to 1")
    shares = [p.share for p in sites.protocols.values()]
    require("protocol shares", shares, sum(shares) > 0, "give at least one sequence a share above 0")
    for name in ("distractors", "distractors_elsewhere", "low_slices", "high_grade", "thickened_bone", "calcified"):
        require(f"lesions.{name}", getattr(lesions, name), getattr(lesions, name) <= 1, "give a share from 0 to 1")
    require("sites.field_of_view", sites.field_of_view, sites.field_of_view[0] >= 150, "give 150 mm or more")


def require(name: str, value: Any, holds: bool, remedy: str) -> None:
    """Raises UserError unless the setting holds."""
    if not holds:
        raise UserError(f"phantom {name} = {value}: {remedy}")


def finite(value: Any) -> bool:
    """Whether every number in a setting is finite."""
    return all(math.isfinite(v) for v in (value if isinstance(value, tuple) else (value,)) if not isinstance(v, str))


def least_of(value: Any) -> float:
    """The smallest number in a setting."""
    return min(value) if isinstance(value, tuple) else value


__all__ = ["Phantom", "replace"]
