"""The file of Fashion-MNIST holds what the four published files hold, and bad ones are named."""

import gzip
import struct

import fashion_mnist
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.arrays import Arrays
from fedjax_mri.data.contract import VALIDATION
from fedjax_mri.data.partition import IID


def write(path, array: np.ndarray, announced: int | None = None) -> None:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, announced or len(array), *array.shape[1:])
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 10)):
        write(tmp_path / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path


def test_the_last_tenth_of_the_training_images_validates(folder) -> None:
    found = fashion_mnist.arrays(folder)
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    np.testing.assert_array_equal(found["images"][40:].ravel(), np.frombuffer(raw[16:], np.uint8))
    np.savez(folder / "fashion.npz", **found)
    federation = Arrays(str(folder / "fashion.npz"), partition=IID(2)).build(0)
    assert federation.train.sizes.tolist() == [18, 18]
    assert {name: test.data.sizes.sum() for name, test in federation.tests.items()} == {"test": 10, VALIDATION: 4}


def test_the_scattering_transform_is_written_as_features(folder, monkeypatch) -> None:
    monkeypatch.setattr(
        "sys.argv", ["fashion_mnist.py", str(folder / "s.npz"), "--folder", str(folder), "--scattering"]
    )
    fashion_mnist.main()
    federation = Arrays(str(folder / "s.npz"), partition=IID(2), channels=81).build(0)
    assert federation.train.store.fields["image"].shape == (36, 7, 7, 81)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda path: path.unlink(), "no such file; apt-get install dataset-fashion-mnist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "download it again"),
        (lambda path: path.write_bytes(b"<html>"), "download it again"),
        (lambda path: path.write_bytes(gzip.compress(b"<html>")), "not an idx file of bytes"),
        (lambda path: write(path, np.zeros(39, np.uint8)), "40 images and 39 labels"),
        (lambda path: write(path, np.zeros(40, np.uint8), 41), r"40 values, and a shape of \[41\]"),
    ],
)
def test_files_that_are_missing_or_damaged_are_named(folder, break_it, says) -> None:
    break_it(folder / "train-labels-idx1-ubyte.gz")
    with pytest.raises(UserError, match=says) as error:
        fashion_mnist.arrays(folder)
    assert "train-" in str(error.value) and "\n" not in str(error.value)
