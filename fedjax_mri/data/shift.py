"""Sources made less alike: wrong labels at some sites, scanners that wear out, hospitals without CT or without MR.

Each wraps another source. What depends on the round, and wrong labels, only touch what clients train on: they are
judged on clean examples.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import keys
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import scaled
from fedjax_mri.data.contract import Batch, ClientData, Federation, Shift, Source, Table, Test
from fedjax_mri.data.phantom.scanner import show_ct
from fedjax_mri.data.resident import example_fields, whole

LABELS, WEAR, SKEW = range(3)  # kinds of change; no two share their random numbers
KINDS = ("CT only", "MR only", "CT and MR")
TWO_CHANNELS: dict[str, Any] = {"images": ("image",), "modalities": ("ct", "mr")}
HAS = np.array([[1, 0], [0, 1], [1, 1]], np.float32)  # CT, MR of each kind


@dataclass(frozen=True)
class LabelNoise:
    """`source` with wrong labels, each site at a rate of its own: its readers' concept of the classes has shifted.

    Rates are uniform from `low` to `high`. A wrong label is any other class, and stays the example's. `grows` > 0 lets
    the rates rise from none at round 0 to the full ones at that round.
    """

    source: Source
    low: float = 0.0
    high: float = 0.4
    grows: int = 0  # rounds; 0: full from the start

    def build(self, seed: int) -> Federation:
        """Returns the source's federation with wrong labels.

        Raises UserError unless 0 <= low <= high <= 1, and where the source does.
        """
        if not 0 <= self.low <= self.high <= 1:
            raise UserError(f"data.low={self.low}, data.high={self.high}: label noise needs 0 <= low <= high <= 1")
        federation = self.source.build(seed)
        rates = site_rng(seed, LABELS).uniform(self.low, self.high, len(federation.labels)).astype(np.float32)
        classes, grow = len(federation.classes), share_of_effect(self.grows, "data.grows")

        def shift(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
            chance, other = jax.vmap(lambda key: label_chances(key, classes))(_keys(seed, LABELS, client, indices))
            wrong, label = chance < jnp.asarray(rates)[client] * grow(round), batch["label"]
            return {**batch, "label": jnp.where(wrong, (label + other) % classes, label)}

        return with_shift(federation, shift, "Label noise of the training sites, %", 100 * rates)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the source's own test sets."""
        return self.source.evaluation(classes, seed)


@dataclass(frozen=True)
class Wear:
    """`source` with images that grow noisier: each site's scanner wears out at a pace of its own.

    At round `grows`, and from then on, a site's images carry Gaussian noise of a standard deviation from 0 to `noise`,
    uniform over sites, as a share of white; before, in proportion to the round.
    """

    source: Source
    noise: float = 0.2
    grows: int = 100  # rounds; 0: worn out from the start

    def build(self, seed: int) -> Federation:
        """Returns the source's federation with worn scanners.

        Raises UserError when the noise is negative or not a number, and where the source does.
        """
        if not 0 <= self.noise < math.inf:
            raise UserError(f"data.noise={self.noise}: must be a share of white, 0 or more")
        federation = self.source.build(seed)
        sigma = site_rng(seed, WEAR).uniform(0, self.noise, len(federation.labels)).astype(np.float32)
        grow = share_of_effect(self.grows, "data.grows")

        def shift(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
            image = batch["image"]
            one = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, round), image.shape[1:], jnp.float32))
            noise = jnp.asarray(sigma)[client] * grow(round) * one(_keys(seed, WEAR, client, indices))
            return {**batch, "image": add_noise(image, noise)}

        return with_shift(federation, shift, "Wear of the training sites' scanners, % of white", 100 * sigma)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the source's own test sets."""
        return self.source.evaluation(classes, seed)


@dataclass(frozen=True)
class ModalitySkew:
    """`source`, which has CT and MR of each patient, with sites that have only one of them.

    As many as the shares say, to a whole number; chance decides which. `image` becomes two channels, CT in its window
    and MR, and "has" float32 [B, 2] says which there are; the other is zero, in the fields "ct" and "mr" too. Test
    sites lack what the training site they belong to lacks; of the others as many.
    """

    source: Source
    ct_only: float = 0.3  # share of sites
    mr_only: float = 0.3

    def build(self, seed: int) -> Federation:
        """Returns the source's federation with modalities missing.

        Raises UserError on bad shares, or a source without both.
        """
        if not (self.ct_only >= 0 and self.mr_only >= 0 and self.ct_only + self.mr_only <= 1):
            raise UserError(
                f"data.ct_only={self.ct_only}, data.mr_only={self.mr_only}: shares must add up to 1 or less"
            )
        federation = self.source.build(seed)
        rng, clients = site_rng(seed, SKEW), len(federation.labels)
        kinds = self._kinds(rng, clients)
        tests = {}
        for name, test in federation.tests.items():
            theirs = np.where(test.owner < 0, self._kinds(rng, len(test.owner)), kinds[test.owner])
            tests[name] = test._replace(data=with_modalities(test.data, theirs))
        groups = {**federation.groups, "modality": np.array(KINDS)[kinds]}
        train, image = with_modalities(federation.train, kinds), federation.image and (*federation.image[:-1], 2)
        return federation._replace(train=train, tests=tests, groups=groups, image=image, **TWO_CHANNELS)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the test sets as `build` makes them; the source refuses classes that it does not know."""
        self.source.evaluation(classes, seed)
        return self.build(seed).tests, ()

    def _kinds(self, rng: np.random.Generator, count: int) -> np.ndarray:
        ends = np.rint(count * np.array([self.ct_only, self.ct_only + self.mr_only])).astype(int)
        return rng.permutation(np.searchsorted(ends, np.arange(count), side="right"))


def with_modalities(data: ClientData, kinds: np.ndarray) -> ClientData:
    """Returns `data` where each client has the modalities of its kind, int [N].

    Raises UserError unless `data` has both.
    """
    fields = example_fields(data)
    if not {"ct", "mr"} <= fields.keys():
        raise UserError(f"data: modality skew needs a source with ct and mr, such as Phantom; this has {set(fields)}")
    return data._replace(store=(whole(data), HAS[kinds]), read=partial_reader(data.read), fetch=None)


@functools.cache  # one function for all that are read alike, so that they can share a program
def partial_reader(inner: Callable[..., Batch]) -> Callable[..., Batch]:
    """Returns a `read` of what `inner` reads, without the modality that a client lacks."""

    def read(store: tuple[Any, Any], client: jax.Array, indices: jax.Array) -> Batch:
        batch, has = inner(store[0], client, indices), jnp.asarray(store[1])[client]
        ct, mr = (jnp.where(there > 0, x, jnp.zeros_like(x)) for there, x in zip(has, (batch["ct"], batch["mr"])))
        shown = [has[0] * show_ct(batch["ct"].astype(jnp.float32)), has[1] * scaled(batch["mr"])]
        has = jnp.broadcast_to(has, (len(indices), 2))
        return {**batch, "ct": ct, "mr": mr, "image": jnp.concatenate(shown, -1), "has": has}

    return read


def with_shift(federation: Federation, shift: Shift, title: str, values: np.ndarray) -> Federation:
    """Returns `federation` with one more shift of its training examples; the report shows quartiles of `values` [N]."""
    before = federation.train.shift

    def both(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
        return shift(before(batch, client, indices, round), client, indices, round)

    quartiles = " / ".join(f"{q:.3g}" for q in np.percentile(values, (0, 25, 50, 75, 100)))
    table = Table(title, ("least / quartiles / most",), [(quartiles,)])
    return federation._replace(train=federation.train._replace(shift=both), tables=(*federation.tables, table))


def share_of_effect(rounds: int, field: str) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from a round to the share of the full effect, float32 []: round / rounds, at most 1.

    Raises UserError when `rounds` is negative.
    """
    if rounds < 0:
        raise UserError(f"{field}={rounds}: must be a number of rounds, or 0 for all from the start")
    return lambda round: jnp.minimum(round.astype(jnp.float32) / rounds, 1.0) if rounds else jnp.float32(1)


def label_chances(key: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Returns a random number, float32 [] in 0..1, and the distance to another class, int32 [] in 1..classes-1."""
    chance, other = jax.random.split(key)
    return jax.random.uniform(chance, (), jnp.float32), jax.random.randint(other, (), 1, classes, jnp.int32)


def add_noise(image: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns an image of bytes, or of floats 0..1, plus `noise` in units of white, clipped to its range."""
    white = 255.0 if jnp.issubdtype(image.dtype, jnp.integer) else 1.0
    total = jnp.clip(image.astype(jnp.float32) + white * noise, 0.0, white)
    return (jnp.round(total) if white > 1 else total).astype(image.dtype)


def _keys(seed: int, what: int, client: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns a key for each example [B] of a client."""
    mine = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), what), client)
    return keys.fold_in_each(mine, indices)


def site_rng(seed: int, what: int) -> np.random.Generator:
    """Returns the generator that decides how sites differ in `what`, one of the kinds of change above."""
    return np.random.default_rng((seed, what))
