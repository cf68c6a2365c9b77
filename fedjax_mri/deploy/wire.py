"""Trees of arrays as bytes, as they travel and as they are kept: each leaf by its path. Nothing is pickled."""

import zlib

import jax
from flax import serialization

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.fed.uplink.contract import PyTree
from fedjax_mri.run.checkpoint import fill_shapes

OVERHEAD = 1000  # bytes that the path, shape and dtype of a leaf may take


def pack(tree: PyTree, compressed: bool = False) -> bytes:
    """Returns the leaves of a tree as bytes, compressed without loss if asked."""
    leaves = serialization.msgpack_serialize(trees.named(jax.device_get(tree)))
    return zlib.compress(leaves, zlib.Z_DEFAULT_COMPRESSION if compressed else zlib.Z_NO_COMPRESSION)


def unpack(data: bytes, shapes: PyTree, sender: str) -> PyTree:
    """Returns the tree of `shapes` whose leaves `pack` has made bytes of.

    Raises UserError, naming the sender, where they do not fit. What is larger than the tree is not unpacked.
    """
    limit = trees.nbytes(shapes) + OVERHEAD * (1 + len(jax.tree.leaves(shapes)))
    try:
        leaves = serialization.msgpack_restore(zlib.decompressobj().decompress(data, limit))
        return fill_shapes(shapes, leaves, sender)
    except (zlib.error, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{sender}: what it gave cannot be read ({short_message(error)}); use one version for all"
        ) from None
