"""Trees of arrays as they travel and as they are kept: each leaf by its path, in its own bytes. Nothing is pickled."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError

PyTree = Any
PLAIN, PACKED = "little-endian", "little-endian, zlib"


class Leaf(NamedTuple):
    """An array on the wire; the fields of Flower's `Array`."""

    dtype: str
    shape: tuple[int, ...]
    stype: str  # PLAIN or PACKED
    data: bytes


def to_leaves(tree: PyTree, packed: bool = False) -> dict[str, Leaf]:
    """Returns the leaves of a tree by their paths. With `packed` they are compressed, without loss."""
    found = {name: np.asarray(leaf) for name, leaf in trees.named(tree).items()}
    return {
        name: Leaf(
            str(x.dtype), x.shape, PACKED if packed else PLAIN, zlib.compress(x.tobytes()) if packed else x.tobytes()
        )
        for name, x in found.items()
    }


def from_leaves(leaves: Mapping[str, Any], shapes: PyTree, sender: str) -> PyTree:
    """Returns the tree of `shapes` with these leaves. Raises UserError, naming the sender, where they do not fit."""
    wanted = trees.named(shapes)
    for name in sorted(set(wanted) ^ set(leaves)):
        raise UserError(f"{sender}: {name} is {'missing' if name in wanted else 'too much'}; use one version for all")

    def read(path: Any, like: Any) -> np.ndarray:
        name, size = trees.name(path), like.size * like.dtype.itemsize
        data = leaves[name].data
        if leaves[name].stype == PACKED:
            data = zlib.decompressobj().decompress(data, size + 1)
        if str(like.dtype) != leaves[name].dtype or len(data) != size:
            raise UserError(
                f"{sender}: {name} has {len(data)} bytes of {leaves[name].dtype}, not {size} of {like.dtype}"
            )
        return np.frombuffer(data, like.dtype).reshape(like.shape)

    return jax.tree_util.tree_map_with_path(read, shapes)
