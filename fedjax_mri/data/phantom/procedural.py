"""Federations of synthetic hospitals of which no example is stored: each is drawn from random keys where it is used.

A kind of phantom is its `Pictures`: functions that draw a hospital, a patient of it, and the patient's picture.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import keys, programs
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import Seed, checked_value
from fedjax_mri.data.contract import VALIDATION, Batch, ClientData, Federation, Table, Test
from fedjax_mri.data.merge import positions_in, relabelled_tests

from .cases import CaseMix, diagnose, given_patients

Read = Callable[[Any, jax.Array, jax.Array], Batch]
UNSEEN = 2**30  # first site that takes no part in training
NEW = 2**30  # first patient who takes no part in training
VALIDATED = 2**29  # first patient of the validation set
CHUNK = 250  # sites counted at once


class Pictures(NamedTuple):
    """How one kind of phantom is drawn, by traced functions. Equal settings must give the same functions."""

    site: Callable[[jax.Array, jax.Array], Any]  # (class_alpha, key) -> a hospital with `class_mix` and `patients`
    patient: Callable[[Any, jax.Array], Any]  # (site, key) -> all that is drawn of a patient, by `diagnose` a class
    picture: Callable[[Any, Any], Batch]  # (site, patient) -> one example, "image" and "label" at least


class Settings(Protocol):
    """What the settings of every phantom have."""

    @property
    def clients(self) -> int: ...
    @property
    def test_clients(self) -> int: ...
    @property
    def test_patients(self) -> int: ...
    @property
    def validation_patients(self) -> int | None: ...
    @property
    def sites(self) -> CaseMix: ...


class Origin(NamedTuple):
    """The store of a phantom: where its randomness starts, and how skewed labels are. All else is in its `read`."""

    key: Any  # uint32 [2], data of the key from which sites are drawn
    class_alpha: Any  # float32 []
    site: Any  # int32 [], the first
    patient: Any  # int32 [], the first of each site


def origin(phantom: Settings, seed: int) -> Origin:
    """Returns the store of the training sites. Raises UserError on a seed that would be another one's."""
    checked_value("seed", seed, Seed)
    key = np.asarray(jax.random.key_data(jax.random.key(seed)))
    return Origin(key, np.float32(phantom.sites.class_alpha), np.int32(0), np.int32(0))


def federation(phantom: Settings, pictures: Pictures, classes: tuple[str, ...], seed: int) -> tuple[Federation, Any]:
    """Returns the federation of a phantom, and the traits of its training sites, fields [N, ...].

    It makes no picture.
    """
    store, read = origin(phantom, seed), reader(pictures)
    sites, labels = census(pictures, phantom.sites, store, phantom.clients)

    def test(owner: np.ndarray, store: Origin, patients: int) -> Test:
        return Test(ClientData(np.full(len(owner), patients, np.int32), store, read), owner)

    tested, validated = phantom.test_patients, phantom.validation_patients
    validated = tested if validated is None else validated
    seen = np.arange(min(phantom.test_clients, phantom.clients), dtype=np.int32)
    unseen = np.full(phantom.test_clients, -1, np.int32)
    tests = {
        "unseen sites": test(unseen, store._replace(site=np.int32(UNSEEN)), tested),
        "seen sites": test(seen, store._replace(patient=np.int32(NEW)), tested),
    }
    if validated:
        tests[VALIDATION] = test(seen, store._replace(patient=np.int32(VALIDATED)), validated)
    sizes = np.asarray(sites.patients)
    train = ClientData(sizes, store, read, patients=sizes)
    return Federation(train, tests, classes, labels, synthetic=True), sites


def evaluation(federation: Federation, classes: tuple[str, ...]) -> dict[str, Test]:
    """Returns the test sets of a phantom, labelled by `classes`. Raises UserError on a class that is not among them."""
    known = set(federation.classes) <= set(classes)
    require("classes", federation.classes, known, f"this model knows {', '.join(classes)}")
    return relabelled_tests(federation.tests, positions_in(classes, list(federation.classes)))


@functools.cache
def reader(pictures: Pictures) -> Read:
    """Returns `read` of a ClientData.

    Phantoms that differ in their store alone share one function, and so one program.
    """
    # Traced once for training, evaluation and all that asks for shapes.
    site_of = jax.jit(partial(open_site, pictures), inline=True)
    patient_of = jax.jit(pictures.patient, inline=True)
    picture_of = jax.jit(pictures.picture, inline=True)

    def read(store: Origin, client: jax.Array, indices: jax.Array) -> Batch:
        site, patients = site_of(store, client)
        several = jax.vmap(patient_of, (None, 0))(site, keys.fold_in_each(patients, indices + store.patient))
        return jax.vmap(picture_of, (None, 0))(site, computed_once(several, store.class_alpha > 0))

    return read


def computed_once(traits: Any, always: jax.Array) -> Any:
    """Returns `traits` as they are.

    Behind a branch that is `always` taken, XLA cannot compute them again for every pixel, as it would on a processor,
    three times as slowly in all.
    """
    return jax.lax.cond(always, lambda traits: traits, partial(jax.tree.map, jnp.zeros_like), traits)


def open_site(pictures: Pictures, store: Origin, client: jax.Array) -> tuple[Any, jax.Array]:
    """Returns a site, and the key from which its patients are drawn."""
    key = jax.random.wrap_key_data(store.key)
    traits, patients = jax.random.split(jax.random.fold_in(key, client + store.site))
    return pictures.site(store.class_alpha, traits), patients


def census(pictures: Pictures, mix: CaseMix, store: Origin, clients: int) -> tuple[Any, np.ndarray]:
    """Returns the traits of every training site, fields [N, ...], and its patients per class, int32 [N, C].

    It draws no picture.
    """
    chunks = -(-clients // CHUNK)
    numbers, given = np.arange(chunks * CHUNK, dtype=np.int32), np.zeros(chunks * CHUNK, np.int32)
    given[:clients] = given_patients(mix, clients)
    count = _counter(pictures, max(mix.patients_max, int(given.max())), len(mix.class_share))
    sites, labels = jax.device_get(count(store, numbers.reshape(chunks, CHUNK), given.reshape(chunks, CHUNK)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:clients], (sites, labels))


@functools.cache
def _counter(pictures: Pictures, most: int, classes: int) -> Callable[..., tuple[Any, jax.Array]]:
    def count(store: Origin, client: jax.Array, given: jax.Array) -> tuple[Any, jax.Array]:
        site, patients = open_site(pictures, store, client)
        site = site._replace(patients=jnp.where(given < 0, site.patients, given))
        index = jnp.arange(most)
        labels = jax.vmap(lambda i: diagnose(site, jax.random.fold_in(patients, i)))(index)
        labels = jnp.where(index < site.patients, labels, classes)
        return site, jnp.bincount(labels, length=classes + 1)[:classes].astype(jnp.int32)

    several = jax.vmap(count, (None, 0, 0))
    return jax.jit(
        lambda store, *chunks: jax.lax.map(lambda chunk: several(store, *chunk), chunks),
        compiler_options=programs.xla_options(),
    )


def quartile_rows(measured: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Returns rows of a table of sites: the name of each trait and its quartiles over them."""
    return [
        (name, " / ".join(f"{q:.3g}" for q in np.percentile(values, (25, 50, 75)))) for name, values in measured.items()
    ]


def site_table(title: str, rows: list[tuple[Any, ...]]) -> Table:
    """Returns the table of the training sites of a phantom."""
    note = "Synthetic hospitals. Share of the training sites, or quartiles over them."
    return Table(title, ("trait", "share or quartiles"), rows, note)


def settings_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the name and value of every setting in nested dataclasses, but for those that are None."""
    for setting in fields(config):
        value, name = getattr(config, setting.name), prefix + setting.name
        if is_dataclass(value):
            yield from settings_of(value, name + ".")
        elif value is not None:
            yield name, value


def check(phantom: Any, classes: tuple[str, ...], signed: tuple[str, ...] = ()) -> None:
    """Raises UserError on the first setting that makes no sense for any phantom; those `signed` may be negative."""
    for name, value in settings_of(phantom):
        check_number(name, value, name in signed)
    check_counts(phantom)
    sites, given = phantom.sites, phantom.sites.patients_shares
    require("sites.class_alpha", sites.class_alpha, sites.class_alpha > 0, "give a number above 0")
    each = len(sites.class_share) == len(classes) and min(sites.class_share) > 0
    require("sites.class_share", sites.class_share, each, "give every class a share above 0")
    require("sites.patients_mean", sites.patients_mean, sites.patients_mean > 0, "give a number above 0")
    of_each = not given or (len(given) == phantom.clients and min(given) > 0)
    require("sites.patients_shares", given, of_each, f"give {phantom.clients} shares above 0, one for each client")


def check_number(name: str, value: Any, signed: bool) -> None:
    """Raises UserError unless numbers are finite, those that are not `signed` not negative, and ranges in order."""
    require(name, value, isinstance(value, str) or bool(np.isfinite(value).all()), "give a finite number")
    if isinstance(value, tuple) and len(value) == 2 and not name.endswith(("_share", "_shares")):
        require(name, value, value[0] <= value[1], "give the lower limit first")
    if not isinstance(value, str) and not signed:
        require(name, value, np.min(value, initial=0) >= 0, "give 0 or more")


def check_counts(phantom: Any) -> None:
    """Raises UserError unless the numbers of sites and patients are whole and above 0."""
    least, most = phantom.sites.patients_min, phantom.sites.patients_max
    counts = {name: getattr(phantom, name) for name in ("clients", "test_clients", "test_patients")}
    for name, count in {**counts, "sites.patients_min": least, "sites.patients_max": most}.items():
        require(name, count, isinstance(count, int), "give a whole number")
        require(name, count, count >= 1, "give at least 1")
    validated = phantom.validation_patients
    require("validation_patients", validated, validated is None or isinstance(validated, int), "give a whole number")
    require("sites.patients_min, patients_max", (least, most), least <= most, "give the smaller as patients_min")
    mean, told = phantom.sites.patients_mean, phantom.sites.patients_total or phantom.sites.patients_shares
    remedy = f"give a mean between patients_min {least} and patients_max {most}, or change these"
    require("sites.patients_mean", mean, bool(told) or least <= mean <= most, remedy)


def require(name: str, value: Any, holds: bool, remedy: str) -> None:
    """Raises UserError unless the setting holds."""
    if not holds:
        raise UserError(f"phantom {name} = {value}: {remedy}")
