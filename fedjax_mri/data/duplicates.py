"""Which images are the same picture: exact copies, and near copies by a perceptual hash."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

HASHED = 32  # pixels a side, of which imagehash takes the lowest frequencies


def exact(image: "Image") -> int:
    """Returns a 64-bit digest of size and RGB pixels: the same for copies that differ in file format or header only."""
    content = repr(image.size).encode() + image.convert("RGB").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def perceptual(image: "Image") -> int:
    """Returns a 64-bit DCT hash, within a few bits for the same picture scaled, recompressed or a little brighter.

    It is 0 for an image without structure (deviation below one grey level): the hash bits of such are rounding errors
    that any two blank images share, and 0 never matches. No other image has hash 0: a bit says "above the median".
    """
    return perceptual_pair(image)[0]


def perceptual_pair(image: "Image") -> tuple[int, int]:
    """Returns the hash of an image, and that of its mirror image; 0 for both where it has no structure."""
    import imagehash
    from PIL import Image, ImageOps, ImageStat

    grey = image.convert("L")
    if ImageStat.Stat(grey).stddev[0] < 1:
        return 0, 0
    small = grey.resize((HASHED, HASHED), Image.Resampling.LANCZOS)  # as imagehash begins
    return int(str(imagehash.phash(small)), 16), int(str(imagehash.phash(ImageOps.mirror(small))), 16)


def group(hashes: np.ndarray, digests: np.ndarray, distance: int = 4, mirrored: np.ndarray | None = None) -> np.ndarray:
    """Returns the duplicate group [n] of each image.

    Groups are connected components of equal digests and of hashes at most `distance` bits apart.

    hashes: uint64 [n], 0 for what has no perceptual hash; digests: [n]. With `mirrored`, the hashes [n] of the mirror
    images, a flipped copy is a copy too. Groups are numbered from 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    hashed = np.flatnonzero(hashes != 0)
    values, first, of = np.unique(hashes[hashed], return_index=True, return_inverse=True)
    first = hashed[first]
    a, b = _near(values, values, distance)
    c, d = _near(values, mirrored[first], distance) if mirrored is not None else (a[:0], b[:0])
    _, same, copy_of = np.unique(digests, return_index=True, return_inverse=True)
    n = len(hashes)
    left = np.concatenate([hashed, np.arange(n), first[a], first[c]])
    right = np.concatenate([first[of], same[copy_of], first[b], first[d]])
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _near(ours: np.ndarray, theirs: np.ndarray, distance: int, rows: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Returns all pairs of hashes, uint64 [m] and [m], at most `distance` bits apart.

    Every pair is compared, some rows at a time.
    """
    found = [np.empty((2, 0), np.int64)]
    for start in range(0, len(ours), rows):
        bits = np.bitwise_count(ours[start : start + rows, None] ^ theirs[None])
        a, b = np.nonzero(bits <= distance)
        found.append(np.stack([a + start, b]))
    a, b = np.concatenate(found, axis=1)
    return a, b


def leak(groups: np.ndarray, digests: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which test images have a twin in training, two bool [len(test)]: exact copies, near copies."""
    copied = np.isin(digests[test], digests[train])
    return copied, np.isin(groups[test], groups[train]) & ~copied
