"""Messages of compressors as bytes: what travels between machines, whose length `Stage.wire` gives.

A message is written field by field, without gaps between bits, and filled up to a whole byte. Statistics and what an
algorithm sends besides follow in their own types.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.fields import Field, Floats, Message, Subset

PyTree = Any


def pack(message: Message, fields: Sequence[Field], rest: PyTree = ()) -> bytes:
    """Returns a message as bytes, followed by the leaves of `rest`."""
    bits = [field_bits(np.asarray(values).ravel(), field) for values, field in zip(message, fields, strict=True)]
    packed = np.packbits(np.concatenate(bits)).tobytes() if bits else b""
    return packed + b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(rest))


def unpack(data: bytes, fields: Sequence[Field], like: PyTree = ()) -> tuple[Message, PyTree]:
    """Returns the message, in flat arrays, and the rest, in the shapes of `like`, of which `pack` has made `data`.

    Raises UserError if `data` has another length.
    """
    ends = np.cumsum([field.bits for field in fields], dtype=np.int64)
    start = -(-int(ends[-1]) // 8) if len(fields) else 0
    leaves, structure = jax.tree.flatten(like)
    wanted = start + sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    if len(data) != wanted:
        raise UserError(f"a message of {len(data)} bytes: must have {wanted}; send what `pack` gives")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, start))
    message = tuple(field_values(part, field) for part, field in zip(np.split(bits, ends[:-1]), fields))
    rest = []
    for leaf in leaves:
        rest.append(np.frombuffer(data, leaf.dtype, leaf.size, start).reshape(leaf.shape))
        start += leaf.size * leaf.dtype.itemsize
    return message, jax.tree.unflatten(structure, rest)


def field_bits(values: np.ndarray, field: Field) -> np.ndarray:
    """Returns the bits of a field, uint8 [field.bits] of 0 and 1."""
    if isinstance(field, Floats):
        return np.unpackbits(values.astype(">f4").view(np.uint8))
    if isinstance(field, Subset) and field.bits == field.below:
        return np.bincount(values, minlength=field.below).astype(np.uint8)
    shifts = np.arange(field.width - 1, -1, -1, dtype=np.uint32)
    return (values.astype(np.uint32)[:, None] >> shifts & 1).astype(np.uint8).ravel()


def field_values(bits: np.ndarray, field: Field) -> np.ndarray:
    """Returns the values, float32 or uint32 [n], that `field_bits` has written; `bits` may have padding after them."""
    bits = bits[: field.bits]
    if isinstance(field, Floats):
        return np.packbits(bits).view(">f4").astype(np.float32)
    if isinstance(field, Subset) and field.bits == field.below:
        return np.flatnonzero(bits).astype(np.uint32)
    shifts = np.arange(field.width - 1, -1, -1, dtype=np.uint32)
    return (bits.reshape(-1, field.width).astype(np.uint32) << shifts).sum(1, dtype=np.uint32)
