"""Volumes that are stored as one array after a header: read no further than the header claims, written plane by plane.

Of a file of some 100 MB, neither a second copy as stored nor one as written is held in memory.
"""

import io
import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.orientation import Turn
from fedjax_mri.data.files.scan import HEAD, Conversion, Limits, check_bytes

GZIP = b"\x1f\x8b"
CHUNK = 2**20  # bytes that are read or unpacked at a time
SURPLUS = 2**24  # bytes that a gzip file may hold beyond what its header claims
USUAL = (0.005, 50.0)  # mm from voxel to voxel
TILT = 15.0  # degrees; less is how scanners are set up for a head
STEPS = 2**16  # of 0..1 in what is written as float32: noise in further bits could not be packed


def content(path: Path, claim: Callable[[bytes], int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The bytes of a file, packed by gzip or not, as many as `claim` says of the first ones; and notes.

    A packed file is unpacked to its end, where its checksum lies. Raises UserError where the file is shorter, or
    damaged.
    """
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        notes: list[str] = []
        pieces = unpacked(file, notes) if packed else iter(lambda: file.read(CHUNK), b"")
        head = b""
        while len(head) < HEAD and (piece := next(pieces, b"")):
            head += piece
        claimed, size = claim(head), len(head) if packed else path.stat().st_size
        if not packed and size < claimed:
            raise UserError(f"the header claims {claimed} bytes, the file has {size}: it was cut short")
        whole, size = np.empty(claimed, np.uint8), 0
        for piece in itertools.chain([head], pieces):
            part = np.frombuffer(piece, np.uint8)[: max(claimed - size, 0)]
            whole[size : size + len(part)] = part
            size += len(piece)
            if size > claimed + SURPLUS or (not packed and size >= claimed):
                break
    if size < claimed:
        raise UserError(f"the header claims {claimed} bytes, the file has {size}: it was cut short")
    if packed and size > claimed + SURPLUS:
        raise UserError(f"unpacks to more than the {claimed} bytes that its header claims: write it again")
    return whole, tuple(notes)


def unpacked(file: BinaryIO, notes: list[str]) -> Iterator[bytes]:
    """Yields what a gzip file holds, in pieces, and adds to `notes` what follows its end.

    Raises UserError where it is damaged, which its checksum tells when all was given, or cut short.
    """
    packed = file.read(CHUNK)
    while packed[:2] == GZIP:  # members, one after the other
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if not packed:
                raise UserError("its packed content was cut short: copy it again")
            try:
                piece = member.decompress(packed, CHUNK)
            except zlib.error as error:
                raise UserError(f"its packed content is damaged ({error}): copy it again") from None
            if piece:
                yield piece
            packed = member.unconsumed_tail or (b"" if member.eof else file.read(CHUNK))
        packed = member.unused_data + (file.read(CHUNK) if len(member.unused_data) < 2 else b"")
    if packed.strip(b"\0"):
        notes.append("something follows its packed content, and is left out")


def first_unpacked(head: bytes) -> bytes:
    """The first bytes of what a gzip file that begins with `head` holds; of other files, those that were given."""
    if head[:2] != GZIP:
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error:
        return b""


def claimed_bytes(shape: tuple[int, ...], dtype: np.dtype, offset: float, limits: Limits) -> int:
    """Bytes that a file with this header must have. Raises UserError where they cannot be a volume."""
    if min(shape, default=0) < 1 or not 0 <= offset <= limits.bytes:
        raise UserError(f"its header claims the shape {shape} after {offset} bytes: write it again")
    if dtype.kind not in "iuf":
        raise UserError(f"voxels of type {dtype}: give real numbers")
    voxels = math.prod(shape)
    check_bytes(voxels * max(dtype.itemsize, 4), "its header claims", limits)
    if math.prod(shape[3:]) > 1:
        raise UserError(f"{math.prod(shape[3:])} volumes of shape {shape[:3]}: give one volume a file")
    return int(offset) + voxels * dtype.itemsize


def three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape with exactly 3 axes; axes beyond them have length 1."""
    x, y, z = (*shape, 1, 1)[:3]
    return x, y, z


def axial(stored: np.ndarray, turn: Turn, slope: float = 1, intercept: float = 0) -> np.ndarray:
    """Axial slices float32 [D, H, W] of an array [x, y, z] as stored."""
    turned = turn(stored)
    slices = np.empty(turned.shape, np.float32)
    for place, image in enumerate(turned):
        slices[place] = image if (slope, intercept) == (1, 0) else image.astype(np.float64) * slope + intercept
    return slices


def doubts(affine: np.ndarray, step: tuple[float, ...]) -> tuple[str, ...]:
    """Sentences on distances in mm that can hardly be meant, and on slices that are not quite axial."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    tilt = np.degrees(np.arccos(np.clip(np.abs(columns).max(0).min(), 0, 1)))
    far = not all(USUAL[0] <= side <= USUAL[1] for side in step)
    measures = " x ".join(f"{side:.3g}" for side in step)
    said = [f"its voxels measure {measures} mm: check the unit that its header names"] * far
    return (*said, *[f"its axes are tilted by {tilt:.0f} degrees, and its slices stay as they are"] * bool(tilt > TILT))


def planes(values: np.ndarray, turn_back: Turn, dtype: np.dtype) -> Iterator[bytes]:
    """Yields the planes of axial slices [D, H, W] as they are stored."""
    for plane in np.moveaxis(turn_back(values), 2, 0):
        yield rounded(plane, dtype).tobytes("F")


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values of another type: whole numbers, or floats in steps of 1/65536."""
    if dtype.kind == "i":
        return np.rint(values).astype(dtype)
    return (np.rint(values * np.float32(STEPS)) / np.float32(STEPS)).astype(dtype)


def written(header: bytes, pieces: Iterator[bytes], packed: bool) -> bytes:
    """The bytes of a file; pieces are taken one at a time."""
    pack, file = packer(), io.BytesIO()
    for piece in itertools.chain([header], pieces):
        file.write(pack.compress(piece) if packed else piece)
    file.write(pack.flush() if packed else b"")
    return file.getvalue()  # without a copy


def packer() -> Any:
    """What packs by gzip: ISA-L where it is installed, which is five times as fast as zlib at its lowest level.

    Higher levels of zlib take five times as long again, and gain a few per cent.
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(1, wbits=31)
    return isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)


def is_packed_name(path: Path) -> bool:
    """Whether the name of a file says that it is packed; readers of others' making go by it."""
    return path.name.lower().endswith((".gz", ".mgz"))


def units_of(modality: str) -> Literal["unstated", "arbitrary"]:
    """The units of a volume whose header knows none."""
    return "unstated" if modality == "ct" else "arbitrary"


def stored_type(conversion: Conversion, deviation: bool) -> np.dtype:
    """HU are whole numbers; a standard deviation, and what is in 0..1, are not."""
    return np.dtype(np.int16 if conversion.hounsfield and not deviation else np.float32)


def description(conversion: Conversion, deviation: bool) -> str:
    """What was made, of what, by which model, and what no value can be outside of, for a header."""
    confined = f", {conversion.bounds}" if conversion.hounsfield and not deviation else ""
    return f"fedjax-mri {conversion.model[:30]}: {conversion.source} to {conversion.to}{confined}" + ", sd" * deviation
