"""Sources made less alike: rates of wrong labels, wear over rounds, missing modalities; and tests that stay clean."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import contract as client_data
from fedjax_mri.data.contract import ClientData, Federation
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.procedural import origin
from fedjax_mri.data.phantom.source import reader
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.data.resident import resident
from fedjax_mri.data.shift import LabelNoise, ModalitySkew, Wear, with_modalities
from fedjax_mri.fed.client.local import Local, read_batch
from fedjax_mri.fed.engine import members

EACH, CLASSES = 400, 3


@dataclass(frozen=True)
class Wards:
    """A few sites with as many grey pictures each, labelled by position."""

    sites: int = 6

    def build(self, seed: int) -> Federation:
        count = self.sites * EACH
        arrays = {
            "image": np.full((count, 2, 2, 1), 128, np.uint8),
            "label": np.arange(count, dtype=np.int32) % CLASSES,
        }
        data = resident(arrays, np.split(np.arange(count), self.sites))
        labels = np.full((self.sites, CLASSES), EACH // CLASSES, np.int32)
        return Federation(
            data, {"test": client_data.Test(data, np.arange(self.sites, dtype=np.int32))}, ("a", "b", "c"), labels
        )

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()


@functools.cache
def look(read: Callable, shift: Callable) -> Callable:
    return jax.jit(lambda store, client, every, round: shift(read(store, client, every), client, every, round))


def seen(federation: Federation, client: int, round: int) -> dict[str, np.ndarray]:
    """All that a client sees of its examples in a round."""
    data, every = federation.train, jnp.arange(federation.train.sizes[client], dtype=jnp.int32)
    batch = look(data.read, data.shift)(data.store, jnp.int32(client), every, jnp.int32(round))
    return jax.tree.map(np.asarray, batch)


def wrong(federation: Federation, client: int, round: int) -> np.ndarray:
    clean = Wards().build(0)
    return seen(federation, client, round)["label"] != seen(clean, client, 0)["label"]


def test_each_site_errs_at_its_own_rate() -> None:
    federation = LabelNoise(Wards(), 0.1, 0.6).build(0)
    rates = np.array([wrong(federation, client, 0).mean() for client in range(6)])
    assert np.all((rates > 0.04) & (rates < 0.68)) and rates.max() - rates.min() > 0.1
    even = LabelNoise(Wards(), 0.4, 0.4).build(0)
    counts = np.array([wrong(even, client, 0).sum() for client in range(6)])
    assert np.all(np.abs(counts - 0.4 * EACH) < 4 * np.sqrt(EACH * 0.24))
    assert np.any(wrong(even, 0, 0) != wrong(even, 1, 0))
    np.testing.assert_array_equal(wrong(even, 0, 0), wrong(even, 0, 7))


def test_a_wrong_label_is_any_other_class() -> None:
    federation = LabelNoise(Wards(), 1.0, 1.0).build(0)
    label, truth = seen(federation, 2, 0)["label"], seen(Wards().build(0), 2, 0)["label"]
    away = (label - truth) % CLASSES
    assert set(away) == {1, 2} and abs(np.mean(away == 1) - 0.5) < 4 * 0.5 / np.sqrt(EACH)


def test_noise_may_grow_with_the_rounds() -> None:
    federation = LabelNoise(Wards(), 0.6, 0.6, grows=10).build(0)
    rounds = [wrong(federation, 0, round) for round in (0, 5, 10, 50)]
    assert not rounds[0].any() and np.all(rounds[1] <= rounds[2])
    assert abs(rounds[1].mean() - 0.3) < 4 * np.sqrt(0.21 / EACH)
    np.testing.assert_array_equal(rounds[2], rounds[3])


def test_what_is_judged_stays_clean() -> None:
    for source in (LabelNoise(Wards(), 0.5, 0.5), Wear(Wards())):
        test, clean = source.build(0).tests["test"].data, Wards().build(0).train
        every = jnp.arange(EACH, dtype=jnp.int32)
        for client in (jnp.int32(0), jnp.int32(5)):
            jax.tree.map(
                np.testing.assert_array_equal,
                test.read(test.store, client, every),
                clean.read(clean.store, client, every),
            )
        assert source.evaluation(("a", "b", "c"), 0)[0].keys() == {"test"}


def test_scanners_wear_out() -> None:
    federation = Wear(Wards(), noise=0.3, grows=10).build(1)
    spread = np.array([[seen(federation, c, r)["image"].astype(float).std() for r in (0, 5, 10, 20)] for c in range(6)])
    assert not spread[:, 0].any()
    np.testing.assert_allclose(spread[:, 1], spread[:, 2] / 2, rtol=0.25)
    np.testing.assert_allclose(spread[:, 3], spread[:, 2], rtol=0.25)
    assert spread[:, 2].max() < 0.3 * 255 and spread[:, 2].max() > 3 * spread[:, 2].min()
    now, then = seen(federation, 0, 10)["image"], seen(federation, 0, 11)["image"]
    assert np.mean(now == then) < 0.2


def test_changes_add_up_and_reach_the_local_step_and_the_pooled_baseline() -> None:
    """A local step of one client, and the same examples of the pooled hospital, see the same."""
    source = LabelNoise(Wear(Wards(), 0.2, 0), 0.5, 0.5)
    federation, pooled = source.build(0), Pooled(source).build(0)
    both, client = seen(federation, 3, 0), slice(3 * EACH, 4 * EACH)
    assert both["image"].std() > 0 and wrong(federation, 3, 0).any()
    for name, field in seen(pooled, 0, 0).items():
        grey = 1 if name == "image" else 0  # two programs may round a grey value to either side
        np.testing.assert_allclose(field[client].astype(int), both[name].astype(int), atol=grey)
    local = Local(1, EACH, lambda rate: None, lambda round: jnp.float32(0))  # type: ignore[arg-type,return-value]
    args = (jnp.int32(3), jnp.int32(EACH), jnp.int32(0), jnp.int32(0), jax.random.key(0))
    batch = jax.jit(partial(read_batch, federation.train, local))(federation.train.store, *args)
    assert np.bincount(batch["label"]).tolist() == np.bincount(both["label"]).tolist()


@dataclass(frozen=True)
class Both:
    """Forty sites with one patient each, CT in HU and MR, and a test set for half of them and as many others."""

    def build(self, seed: int) -> Federation:
        arrays = {"ct": np.full((40, 2, 2, 1), 50.0, np.float32), "mr": np.full((40, 2, 2, 1), 0.25, np.float32)}
        data = resident({**arrays, "image": arrays["mr"]}, np.split(np.arange(40), 40))
        owner = np.r_[np.arange(20), np.full(20, -1)].astype(np.int32)
        return Federation(data, {"test": client_data.Test(data, owner)}, ("a",), np.ones((40, 1), np.int32))

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()


def test_sites_lack_a_modality_and_their_tests_do_too() -> None:
    federation = ModalitySkew(Both(), ct_only=0.5, mr_only=0.3).build(0)
    kinds, test = federation.groups["modality"], federation.tests["test"]
    names, counts = np.unique(kinds, return_counts=True)
    assert names.tolist() == ["CT and MR", "CT only", "MR only"]
    assert counts.tolist() == [8, 20, 12]
    two = ModalitySkew(Both(), 0.5, 0.5).build(0)
    assert sorted(two.groups["modality"]) == ["CT only"] * 20 + ["MR only"] * 20
    assert (two.groups["modality"] != ModalitySkew(Both(), 0.5, 0.5).build(1).groups["modality"]).any()
    assert members.data_signature(two.train) == members.data_signature(federation.train)  # one program for all shares
    of_tests = []
    for data in (federation.train, test.data):
        read = jax.jit(lambda client, data=data: data.read(data.store, client, jnp.zeros(2, jnp.int32)))
        for client in range(40):
            batch = read(jnp.int32(client))
            has = np.asarray(batch["has"][0])
            np.testing.assert_array_equal(batch["has"][1], has)
            np.testing.assert_allclose(batch["image"][0, 0, 0], [has[0] * (50 + 100) / 400, has[1] * 0.25])
            np.testing.assert_allclose([batch["ct"].max(), batch["mr"].max()], has * [50, 0.25])
            of_tests.append("CT and MR" if has.all() else "CT only" if has[0] else "MR only")
    assert of_tests[:40] == kinds.tolist() and of_tests[40:60] == kinds[:20].tolist()
    assert set(of_tests[60:]) == set(names)


def test_the_phantom_has_both() -> None:
    data = with_modalities(ClientData(np.ones(2, np.int32), origin(Phantom(), 0), reader(Phantom())), np.array([0, 2]))
    shapes = jax.eval_shape(data.read, data.store, jnp.int32(0), jnp.zeros(5, jnp.int32))
    assert (shapes["image"].shape, shapes["has"].shape) == ((5, 64, 64, 2), (5, 2))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (LabelNoise(Wards(), 0.5, 0.2), "data.low=0.5, data.high=0.2"),
        (LabelNoise(Wards(), 0.0, 1.2), "data.high=1.2"),
        (LabelNoise(Wards(), grows=-1), "data.grows=-1"),
        (Wear(Wards(), noise=float("nan")), "data.noise=nan"),
        (ModalitySkew(Wards(), 0.7, 0.7), "must add up to 1 or less"),
        (ModalitySkew(Wards()), "needs a source with ct and mr"),
    ],
)
def test_bad_settings_are_refused_by_name(source, says: str) -> None:
    with pytest.raises(UserError, match=says):
        source.build(0)
