"""The phantom as a source of data: any number of synthetic hospitals, every example computed where it is used."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import keys, programs
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import Seed, fitted
from fedjax_mri.data.contract import VALIDATION, Batch, ClientData, Federation, Table, Test

from .lesions import CLASSES, LesionModel
from .patient import diagnose, draw_patient, picture
from .scanner import CT_WINDOW, show_ct
from .site import Site, SiteModel, draw_site

Read = Callable[[Any, jax.Array, jax.Array], Batch]
SIZES = (64, 128, 240, 256)
UNSEEN = 2**30  # first site that takes no part in training
NEW = 2**30  # first patient who takes no part in training
VALIDATED = 2**29  # first patient of the validation set
CHUNK = 250  # sites counted at once


@dataclass(frozen=True)
class Phantom:
    """Synthetic CT and MR of glioma, meningioma, pituitary tumour and no tumour, from hospitals that differ."""

    clients: int = 1000
    test_clients: int = 100  # unseen sites; as many training sites are tested on new patients
    test_patients: int = 16  # per site of either test set
    validation_patients: int | None = None  # new ones of the training sites tested; None: as many as test; 0: none
    size: int = 64  # pixels
    image: Literal["mr", "ct"] = "mr"  # what the classifier sees
    sites: SiteModel = field(default_factory=SiteModel)
    lesions: LesionModel = field(default_factory=LesionModel)

    def build(self, seed: int) -> Federation:
        """The federation; no picture is made here. Raises UserError on a setting that makes no sense."""
        check(self)
        store = origin(self, seed)
        sites, labels = census(self, store, self.clients)
        seen = np.arange(min(self.test_clients, self.clients), dtype=np.int32)
        unseen = np.full(self.test_clients, -1, np.int32)
        return Federation(
            train=ClientData(np.asarray(sites.patients), store, reader(self)),
            tests={
                "unseen sites": self.test(unseen, store._replace(site=np.int32(UNSEEN))),
                "seen sites": self.test(seen, store._replace(patient=np.int32(NEW))),
                **self.validation(seen, store._replace(patient=np.int32(VALIDATED))),
            },
            synthetic=True,
            classes=CLASSES,
            labels=labels,
            image=(self.size, self.size, 1),
            modalities=(self.image,),
            window=CT_WINDOW,
            tables=(site_table(self.sites, sites),),
            groups={
                "field strength": np.where(sites.field > 2, "3 T", "1.5 T"),
                "sequence": np.array(list(self.sites.protocols))[sites.protocol],
            },
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """The test sets. Raises UserError when the saved model knows other classes."""
        require("classes", CLASSES, classes == CLASSES, f"this model knows {', '.join(classes)}")
        return dict(self.build(seed).tests), ()

    def test(self, owner: np.ndarray, store: "Origin", patients: int | None = None) -> Test:
        """A test set with as many patients at every site, `test_patients` by default; owner is int32 [M]."""
        patients = self.test_patients if patients is None else patients
        return Test(ClientData(np.full(len(owner), patients, np.int32), store, reader(self)), owner)

    def validation(self, owner: np.ndarray, store: "Origin") -> dict[str, Test]:
        """The validation set by its name; nothing where it has no patients."""
        return {} if self.validation_patients == 0 else {VALIDATION: self.test(owner, store, self.validation_patients)}


class Origin(NamedTuple):
    """The store of the phantom: where its randomness starts, and how skewed labels are. All else is in its `read`."""

    key: Any  # uint32 [2], data of the key from which sites are drawn
    class_alpha: Any  # float32 []
    site: Any  # int32 [], the first
    patient: Any  # int32 [], the first of each site


def origin(phantom: Phantom, seed: int) -> Origin:
    """The store of the training sites. Raises UserError on a seed that would be another one's."""
    fitted("seed", seed, Seed)
    key = np.asarray(jax.random.key_data(jax.random.key(seed)))
    return Origin(key, np.float32(phantom.sites.class_alpha), np.int32(0), np.int32(0))


def reader(phantom: Phantom) -> Read:
    """`read` of a ClientData: image [B, S, S, 1] in 0..1, label [B], mr in 0..1, ct in HU, tissue [.., T], mask and
    more (`patient.picture`).

    Phantoms that differ in their store alone share one function, and so one program.
    """
    return _reader(phantom.size, phantom.image, without_label_skew(phantom.sites), phantom.lesions)


def without_label_skew(sites: SiteModel) -> SiteModel:
    """The settings without the label skew, which the store holds."""
    return replace(sites, class_alpha=1.0)


@functools.cache
def _reader(size: int, image: str, sites: SiteModel, lesions: LesionModel) -> Read:
    # Traced once for training, evaluation and all that asks for shapes.
    site_of = jax.jit(partial(open_site, sites), inline=True)
    patient_of = jax.jit(partial(draw_patient, sites, lesions), inline=True)
    pictures_of = jax.jit(partial(picture, sites, lesions, size), inline=True)

    def read(store: Origin, client: jax.Array, indices: jax.Array) -> Batch:
        site, patients = site_of(store, client)
        several = jax.vmap(patient_of, (None, 0))(site, keys.each(patients, indices + store.patient))
        several = computed_once(several, store.class_alpha > 0)
        batch = jax.vmap(pictures_of, (None, 0))(site, several)
        return {"image": show_ct(batch["ct"]) if image == "ct" else batch["mr"], **batch}

    return read


def computed_once(traits: Any, always: jax.Array) -> Any:
    """`traits` as they are. Behind a branch that is `always` taken, XLA cannot compute them again for every pixel, as
    it would on a processor, three times as slowly in all."""
    return jax.lax.cond(always, lambda traits: traits, partial(jax.tree.map, jnp.zeros_like), traits)


def open_site(model: SiteModel, store: Origin, client: jax.Array) -> tuple[Site, jax.Array]:
    """A site, and the key from which its patients are drawn."""
    key = jax.random.wrap_key_data(store.key)
    traits, patients = jax.random.split(jax.random.fold_in(key, client + store.site))
    return draw_site(replace(model, class_alpha=store.class_alpha), traits), patients


def census(phantom: Phantom, store: Origin, clients: int) -> tuple[Site, np.ndarray]:
    """Traits of every training site, fields [N, ...], and its patients per class, int32 [N, C]; draws no picture."""
    chunks = jnp.arange(-(-clients // CHUNK) * CHUNK, dtype=jnp.int32).reshape(-1, CHUNK)
    sites, labels = jax.device_get(_counter(without_label_skew(phantom.sites))(store, chunks))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:clients], (sites, labels))


@functools.cache
def _counter(model: SiteModel) -> Callable[[Origin, jax.Array], tuple[Site, jax.Array]]:
    def count(store: Origin, client: jax.Array) -> tuple[Site, jax.Array]:
        site, patients = open_site(model, store, client)
        index = jnp.arange(model.patients_max)
        labels = jax.vmap(lambda i: diagnose(site, jax.random.fold_in(patients, i)))(index)
        labels = jnp.where(index < site.patients, labels, len(CLASSES))
        return site, jnp.bincount(labels, length=len(CLASSES) + 1)[: len(CLASSES)].astype(jnp.int32)

    several = jax.vmap(count, (None, 0))
    return jax.jit(
        lambda store, chunks: jax.lax.map(partial(several, store), chunks), compiler_options=programs.xla_options()
    )


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
    """Name and value of every setting in nested dataclasses, but for those that are None."""
    for setting in fields(config):
        value, name = getattr(config, setting.name), prefix + setting.name
        if is_dataclass(value):
            yield from settings(value, name + ".")
        elif value is not None:
            yield name, value


def check(phantom: Phantom) -> None:
    """Raises UserError on the first setting that makes no sense."""
    for name, value in settings(phantom):
        check_setting(name, value)
    check_counts(phantom)
    check_sites(phantom.sites)
    shares = ("distractors", "distractors_elsewhere", "low_slices", "high_grade", "thickened_bone", "calcified")
    for name in (*shares, "one_modality"):
        share = getattr(phantom.lesions, name)
        require(f"lesions.{name}", share, share <= 1, "give a share from 0 to 1")
    validated = phantom.validation_patients
    require("validation_patients", validated, validated is None or isinstance(validated, int), "give a whole number")
    require("size", phantom.size, phantom.size in SIZES, f"choose one of {', '.join(map(str, SIZES))}")
    require("image", phantom.image, phantom.image in ("mr", "ct"), "choose mr or ct")


def check_setting(name: str, value: Any) -> None:
    """Numbers are finite and not negative, ranges in order."""
    require(name, value, finite(value), "give a finite number")
    if isinstance(value, tuple) and len(value) == 2:
        require(name, value, value[0] <= value[1], "give the lower limit first")
    if not isinstance(value, str):
        require(name, value, np.min(value) >= 0, "give 0 or more")


def check_counts(phantom: Phantom) -> None:
    """Numbers of sites and patients are whole and above 0."""
    least, most = phantom.sites.patients_min, phantom.sites.patients_max
    counts = {name: getattr(phantom, name) for name in ("clients", "test_clients", "test_patients")}
    for name, count in {**counts, "sites.patients_min": least, "sites.patients_max": most}.items():
        require(name, count, isinstance(count, int), "give a whole number")
        require(name, count, count >= 1, "give at least 1")
    require("sites.patients_min, patients_max", (least, most), least <= most, "give the smaller as patients_min")


def check_sites(sites: SiteModel) -> None:
    """Shares and scales that a site cannot be drawn without."""
    shares = tuple(protocol.share for protocol in sites.protocols.values())
    require("sites.class_alpha", sites.class_alpha, sites.class_alpha > 0, "give a number above 0")
    require("sites.class_share", sites.class_share, min(sites.class_share) > 0, "give every class a share above 0")
    require("sites.patients_mean", sites.patients_mean, sites.patients_mean > 0, "give a number above 0")
    require("sites.three_tesla", sites.three_tesla, sites.three_tesla <= 1, "give a share from 0 to 1")
    require("sequence shares", shares, sum(shares) > 0, "give at least one sequence a share above 0")
    require("sites.field_of_view", sites.field_of_view, sites.field_of_view[0] >= 150, "give 150 mm or more")


def require(name: str, value: Any, holds: bool, remedy: str) -> None:
    """Raises UserError unless the setting holds."""
    if not holds:
        raise UserError(f"phantom {name} = {value}: {remedy}")


def finite(value: Any) -> bool:
    """Whether every number in a setting is finite."""
    return isinstance(value, str) or bool(np.isfinite(value).all())
