"""No hospital that trains ever shows CT and MR of one patient; pairs of real slices are split by case."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.data.pairs import Pairs
from fedjax_mri.data.resident import resident
from fedjax_mri.data.unpaired import Unpaired, with_mr_of_others

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data" / "ct-mri-pairs"


class Numbered:
    """Patients whose CT and MR are their number; hospitals of 1, 2, 5 and none."""

    def build(self, seed: int) -> Federation:
        number = np.arange(8, dtype=np.float32)
        data = resident({"ct": number, "mr": number, "label": number}, np.split(np.arange(8), [1, 3, 8]))
        return Federation(data, {"test": Test(data, np.arange(4, dtype=np.int32))}, ("a",), np.ones((4, 1), np.int32))

    def evaluation(self, classes, seed):
        return self.build(seed).tests, ()


def test_ct_and_mr_are_of_different_patients_of_the_same_site() -> None:
    federation = Unpaired(Numbered()).build(0)
    train, (warning, same) = federation.train, federation.warnings
    assert "may be of one patient" in same  # the source does not say that each example is of another one
    assert train.sizes.tolist() == [0, 2, 5, 0]
    assert warning.startswith("1 sites with one example")
    read = jax.jit(train.read)
    for client, patients in ((1, {1, 2}), (2, {3, 4, 5, 6, 7})):
        batch = read(train.store, jnp.int32(client), jnp.arange(len(patients), dtype=jnp.int32))
        assert set(batch["ct"].tolist()) == set(batch["mr"].tolist()) == patients
        assert not np.any(batch["ct"] == batch["mr"]) and np.all(batch["label"] == batch["ct"])
    test = federation.tests["test"].data
    batch = test.read(test.store, jnp.int32(2), jnp.arange(5, dtype=jnp.int32))
    np.testing.assert_array_equal(batch["ct"], batch["mr"])


def test_any_size_of_site_is_taken_apart() -> None:
    for size in range(2, 9):
        data = with_mr_of_others(resident({"ct": np.arange(size), "mr": np.arange(size)}, [np.arange(size)]))
        batch = data.read(data.store, jnp.int32(0), jnp.arange(size, dtype=jnp.int32))
        assert not np.any(batch["ct"] == batch["mr"]) and sorted(batch["mr"].tolist()) == list(range(size))


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    for modality, shade in (("CT", 100), ("MRI", 200)):
        (tmp_path / modality).mkdir()
        for case in (2, 31):
            for number in range(3):
                pixels = np.full((20, 20), shade + case + number, np.uint8)
                Image.fromarray(pixels).save(tmp_path / modality / f"{case}{number:03}.png")
    return tmp_path


def test_a_case_is_on_one_side_only(folder) -> None:
    federation = Pairs(str(folder), size=16, holdout=1, validation=0).build(0)
    test, train = federation.tests["unseen cases"].data, federation.train
    assert train.sizes.tolist() == test.sizes.tolist() == [3]
    shades = []
    for data in (train, test):
        batch = data.read(data.store, jnp.int32(0), jnp.arange(3, dtype=jnp.int32))
        assert batch["ct"].shape == (3, 16, 16, 1) and batch["ct"].dtype == jnp.float32
        np.testing.assert_allclose((batch["mr"] - batch["ct"])[:, 8, 8, 0], 100 / 255, atol=1e-6)
        shades.append(set(np.rint(255 * batch["ct"][:, 8, 8, 0] - 100).astype(int).tolist()))
    assert sorted(map(sorted, shades)) == [[2, 3, 4], [31, 32, 33]]


def test_pairs_that_are_none_are_named(folder) -> None:
    with pytest.raises(UserError, match=r"data.holdout=2, data.validation=1: there are 2 cases; .* at most 1 do"):
        Pairs(str(folder), size=16).build(0)
    (folder / "CT" / "2001.png").unlink()
    with pytest.raises(UserError, match=r"MRI/2001.png: has no partner"):
        Pairs(str(folder), size=16).build(0)
    (folder / "MRI" / "2001.png").unlink()
    (folder / "CT" / "2000.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"2000.png: of no kind that can be read: .*; replace it"):
        Pairs(str(folder), size=16).build(0)
    with pytest.raises(UserError, match="no such folder"):
        Pairs(str(folder / "elsewhere")).build(0)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pairs are not there")
def test_the_real_pairs_have_seven_cases() -> None:
    federation = Pairs(str(REAL), size=32).build(0)
    test, validation = (federation.tests[name].data.sizes for name in ("unseen cases", "validation"))
    assert len(federation.train.sizes) == 4 and len(test) == 2 and len(validation) == 1
    assert federation.train.sizes.sum() + test.sum() + validation.sum() == 128
