"""Which images are the same picture: exact copies, and near copies by a perceptual hash."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def exact(image: "Image") -> int:
    """64-bit digest of size and RGB pixels: the same for copies that differ in file format or header only."""
    content = repr(image.size).encode() + image.convert("RGB").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def perceptual(image: "Image") -> int:
    """64-bit DCT hash, within a few bits for the same picture scaled, recompressed or a little brighter.

    0 for an image without structure (deviation below one grey level): its hash bits are rounding errors that any
    two blank images share, and 0 never matches. No other image has hash 0: a bit says "above the median".
    """
    import imagehash
    from PIL import ImageStat

    grey = image.convert("L")
    if ImageStat.Stat(grey).stddev[0] < 1:
        return 0
    return int(str(imagehash.phash(grey)), 16)


def group(hashes: np.ndarray, digests: np.ndarray, distance: int = 4) -> np.ndarray:
    """Duplicate group [n] of each image: connected components of equal digests and of hashes `distance` bits apart.

    hashes: uint64 [n], 0 for what has no perceptual hash; digests: [n]. Groups are numbered from 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    hashed = np.flatnonzero(hashes != 0)
    values, first, of = np.unique(hashes[hashed], return_index=True, return_inverse=True)
    first = hashed[first]
    a, b = _near(values, distance)
    _, same, copy_of = np.unique(digests, return_index=True, return_inverse=True)
    n = len(hashes)
    left = np.concatenate([hashed, np.arange(n), first[a]])
    right = np.concatenate([first[of], same[copy_of], first[b]])
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _near(values: np.ndarray, distance: int, rows: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of distinct hashes, uint64 [m], at most `distance` bits apart: every pair, some rows at a time."""
    found = [np.empty((2, 0), np.int64)]
    for start in range(0, len(values), rows):
        bits = np.bitwise_count(values[start : start + rows, None] ^ values[None, start:])
        a, b = np.nonzero(bits <= distance)
        found.append(np.stack([a, b])[:, a < b] + start)
    a, b = np.concatenate(found, axis=1)
    return a, b


def leak(groups: np.ndarray, digests: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which test images have a twin in training, two bool [len(test)]: exact copies, near copies."""
    copied = np.isin(digests[test], digests[train])
    return copied, np.isin(groups[test], groups[train]) & ~copied
