"""Exact and near copies found, and leaks counted, on pictures made for it."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fedjax_mri.data.duplicates import exact, group, leak, perceptual


def picture(seed: int, size: int = 128) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def bits(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def brute_force(hashes: np.ndarray, digests: np.ndarray, distance: int) -> np.ndarray:
    """Groups by the definition: merge labels over all pairs until nothing changes."""
    group = list(range(len(hashes)))
    for i in range(len(hashes)):
        for j in range(i):
            near = hashes[i] and hashes[j] and bits(int(hashes[i]), int(hashes[j])) <= distance
            if near or digests[i] == digests[j]:
                group = [group[j] if own == group[i] else own for own in group]
    return np.unique(group, return_inverse=True)[1]


@pytest.mark.parametrize("distance", [0, 2, 4])
def test_groups_are_those_of_the_definition(distance):
    rng = np.random.default_rng(0)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 5), replace=False)) for _ in range(120)])
    hashes = rng.integers(1, 2**63, 30, dtype=np.uint64)[rng.integers(0, 30, 120)] ^ flips.astype(np.uint64)
    hashes[:5] = 0
    digests = rng.integers(0, 400, 120)
    found, wanted = group(hashes, digests, distance), brute_force(hashes, digests, distance)
    np.testing.assert_array_equal(found[:, None] == found, wanted[:, None] == wanted)
    assert 1 < len(np.unique(found)) < 120


def test_pairs_across_chunks_are_found():
    hashes = np.arange(1, 2001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    twins = np.concatenate([hashes, hashes ^ np.uint64(0b1111)])
    found = group(twins, np.arange(4000))
    np.testing.assert_array_equal(found[:2000], found[2000:])
    assert len(np.unique(found)) == 2000
    assert len(np.unique(group(hashes, np.arange(2000), 3))) == 2000


@pytest.mark.parametrize("seed", range(5))
def test_near_copies_share_a_hash_and_other_pictures_do_not(seed, tmp_path):
    original = picture(seed)
    original.save(tmp_path / "copy.jpg", quality=60)
    near = [
        original.resize((301, 301)),
        ImageEnhance.Brightness(original).enhance(0.9),
        Image.open(tmp_path / "copy.jpg"),
    ]
    assert all(bits(perceptual(original), perceptual(copy)) <= 4 for copy in near)
    assert bits(perceptual(original), perceptual(picture(seed + 100))) > 4


def test_exact_is_about_pixels_not_bytes(tmp_path):
    original = picture(0)
    original.save(tmp_path / "a.png", compress_level=0)
    original.convert("RGB").save(tmp_path / "b.png", compress_level=9)
    a, b = (Image.open(tmp_path / name) for name in ("a.png", "b.png"))
    assert exact(a) == exact(b) != exact(picture(1))
    assert exact(Image.new("L", (2, 8))) != exact(Image.new("L", (4, 4)))


def test_blank_images_are_twins_only_when_exact():
    blanks = [Image.new("L", (64, 64), grey) for grey in (0, 0, 128, 255)]
    hashes = np.array([perceptual(image) for image in blanks], np.uint64)
    assert not hashes.any()
    groups = group(hashes, np.array([exact(image) for image in blanks]))
    assert groups[0] == groups[1] and len(np.unique(groups)) == 3


def test_leak_counts_exact_and_near_apart():
    groups = np.array([0, 1, 2, 3, 3, 0, 1, 4, 3])  # five train, four test
    digests = np.array([10, 11, 12, 13, 14, 10, 99, 98, 14])
    copied, near = leak(groups, digests, np.arange(5), np.arange(5, 9))
    assert copied.tolist() == [True, False, False, True]
    assert near.tolist() == [False, True, False, False]
