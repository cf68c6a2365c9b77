"""Examples fetched by client: the same from arrays, files and records, and nothing read before it is asked for."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.pooled import pool
from fedjax_mri.data.resident import empty, pack, resident, whole
from fedjax_mri.data.streamed import streamed

PARTS = [np.array([7, 2, 5]), np.array([], int), np.array([0]), np.array([9, 1, 3, 4])]
ARRAYS = {
    "image": np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), dtype=np.uint8),
    "label": np.arange(10),  # int64, which JAX holds as int32
}


class Records:
    """A data source that counts what is read of it, and cannot read record `bad`."""

    def __init__(self, bad: int = -1) -> None:
        self.read: list[int] = []
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        self.read.append(index)
        if index == self.bad:
            raise OSError("the disk is gone")
        return {name: array[index] for name, array in ARRAYS.items()}


def mapped(folder) -> dict[str, np.ndarray]:
    """The arrays as memory-mapped files."""
    for name, array in ARRAYS.items():
        np.save(folder / f"{name}.npy", array)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}


@pytest.mark.parametrize("kind", ["resident", "arrays", "files", "records"])
def test_each_source_gives_each_client_its_own_examples(kind: str, tmp_path) -> None:
    source = {"resident": ARRAYS, "arrays": ARRAYS, "files": mapped(tmp_path), "records": Records()}[kind]
    data = (resident if kind == "resident" else streamed)(source, PARTS)
    np.testing.assert_array_equal(data.sizes, [3, 0, 1, 4])
    for client, part in enumerate(PARTS):
        for name, field in data.fetch(client).items():
            np.testing.assert_array_equal(field, ARRAYS[name][part])
            assert field.shape[1:] == empty(data)[name].shape[1:]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0], [1], [2, 1, 3]])
def test_a_pack_reads_like_the_whole(order: list[int]) -> None:
    data = streamed(ARRAYS, PARTS)
    store, everything = pack([data.fetch(client) for client in order], clients=6, rows=12), whole(data)
    assert store.size.shape == (6,) and store.fields["image"].shape == (12, 4, 4, 1)
    for number, client in enumerate(order):
        index = jnp.arange(data.sizes[client])
        ours = data.read(store, jnp.int32(number), index)
        theirs = data.read(everything, jnp.int32(client), index)
        for name in ARRAYS:
            np.testing.assert_array_equal(ours[name], ARRAYS[name][PARTS[client]])
            np.testing.assert_array_equal(ours[name], theirs[name])
            assert ours[name].dtype == theirs[name].dtype


def test_nothing_is_read_before_it_is_asked_for() -> None:
    source = Records()
    data = streamed(source, PARTS)
    assert not source.read
    data.fetch(3)
    assert source.read == [9, 1, 3, 4]


def test_streamed_data_can_be_pooled() -> None:
    pooled = pool(streamed(ARRAYS, PARTS))
    labels = pooled.read(pooled.store, jnp.int32(0), jnp.arange(8, dtype=jnp.int32))["label"]
    np.testing.assert_array_equal(labels, np.concatenate(PARTS))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="record 5 of Records cannot be read: the disk is gone"):
        streamed(Records(bad=5), PARTS).fetch(0)
    with pytest.raises(UserError, match="none of the 2 clients has an example"):
        streamed(ARRAYS, [np.array([], int)] * 2)
