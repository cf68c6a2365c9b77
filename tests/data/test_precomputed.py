"""Computed once: the source's examples, as bytes, client by client."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, procedural

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.data.precomputed import Precomputed, precomputed, without_values
from fedjax_mri.fed.engine import members

OWNER = np.arange(len(SIZES), dtype=np.int32)


@dataclass(frozen=True)
class Source:
    """What the engine's procedural test data are, as a source."""

    def build(self, seed: int) -> Federation:
        data = procedural()
        return Federation(data, {"again": Test(data, OWNER)}, ("a", "b", "c"), np.zeros((len(SIZES), 3), np.int32))


def test_examples_are_the_source_s_own() -> None:
    theirs, ours = procedural(), Precomputed(Source()).build(0)
    np.testing.assert_array_equal(ours.train.sizes, SIZES)
    for data in (ours.train, ours.tests["again"].data):
        for client in (0, 4):
            index = jnp.arange(SIZES[client], dtype=jnp.int32)
            kept, given = data.read(data.store, client, index), theirs.read(theirs.store, jnp.int32(client), index)
            assert kept["image"].dtype == jnp.uint8
            np.testing.assert_array_equal(kept["label"], given["label"])
            np.testing.assert_allclose(np.asarray(kept["image"]) / 255, given["image"], atol=0.51 / 255)


def test_without_values_all_but_the_values_is_the_same() -> None:
    with without_values():
        empty = Precomputed(Source()).build(1)
    full = Precomputed(Source()).build(1)
    ours, theirs = (one.train.store.fields for one in (empty, full))
    assert {name: (x.shape, x.dtype) for name, x in ours.items()} == {n: (x.shape, x.dtype) for n, x in theirs.items()}
    np.testing.assert_array_equal(empty.train.sizes, full.train.sizes)
    assert not ours["image"].any() and theirs["image"].any(), "and zeros are never taken for examples"
    assert {name: len(x) for name, x in empty.train.fetch(4).items()} == dict.fromkeys(ours, SIZES[4])


def test_what_is_drawn_can_be_stacked() -> None:
    assert members.data_signature(precomputed(procedural())) == members.data_signature(precomputed(procedural()))


def test_fields_are_kept_as_files_hold_them() -> None:
    def read(store, client, indices):
        value = indices.astype(jnp.float32)[:, None] - 0.4
        return {"ct": -100 * value, "mr": value / 20, "has": value, "label": indices}

    data = procedural()._replace(read=read)
    kept = precomputed(data, ("ct", "mr", "has")).store.fields
    assert {name: x.dtype for name, x in kept.items()} == {"ct": np.int16, "mr": np.uint8, "has": np.float32}
    np.testing.assert_allclose(kept["ct"][:3, 0], [40, -60, -160])
    np.testing.assert_allclose(kept["mr"][:3, 0], np.rint(np.clip([-0.02, 0.03, 0.08], 0, 1) * 255))
    with pytest.raises(UserError, match=r"data.fields: there is no pet; choose of ct, mr, has, label"):
        precomputed(data, ("pet",))


def test_a_ct_that_is_a_picture_is_not_kept_in_whole_hu() -> None:
    with pytest.raises(UserError, match=r"is a picture in 0\.\.1"):
        Precomputed(Source(), fields=("ct", "label")).build(0)
