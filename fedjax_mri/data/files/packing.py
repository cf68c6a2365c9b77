"""Files packed by gzip: unpacked to their end, but little further than a header claims; packed piece by piece.

Of a volume of some 100 MB, neither a second copy as stored nor one as it will be written is held in memory.
"""

import io
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.scan import HEAD

GZIP = b"\x1f\x8b"
EITHER = 47  # zlib's sign for data of gzip or of zlib
CHUNK = 2**20  # bytes that are read or unpacked at a time
SURPLUS = 2**24  # bytes that a packed file may hold beyond what its header claims


def content(
    path: Path, claim: Callable[[bytes], int], start: int = 0, packed: bool | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the bytes of a file from `start`, as many as `claim` says of the first ones; and notes.

    They may be packed by gzip, which is told by the first two where it is not given, or by zlib. What is packed is
    unpacked to its end, where its checksum lies. Raises UserError where there are fewer, or they are damaged.
    """
    with path.open("rb") as file:
        file.seek(start)
        packed = file.read(2) == GZIP if packed is None else packed
        file.seek(start)
        notes: list[str] = []
        pieces = unpacked(file, notes) if packed else iter(lambda: file.read(CHUNK), b"")
        head = b""
        while len(head) < HEAD and (piece := next(pieces, b"")):
            head += piece
        claimed, size = claim(head), len(head) if packed else path.stat().st_size - start
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
    """Yields what was packed by gzip or zlib, in pieces, and adds to `notes` what follows its end.

    Raises UserError where it is damaged, which its checksum tells when all was given, or cut short.
    """
    packed, first = file.read(CHUNK), True
    while first or packed[:2] == GZIP:  # members of gzip, one after the other
        member, first = zlib.decompressobj(wbits=EITHER), False
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
    """Returns the first bytes of what a gzip file that begins with `head` holds; of other files, `head` itself."""
    if head[:2] != GZIP:
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error:
        return b""


def written(header: bytes, pieces: Iterator[bytes], packed: bool) -> bytes:
    """Returns the bytes of a file of which all or nothing is packed by gzip; pieces are taken one at a time."""
    pack, file = packer(), io.BytesIO()
    for piece in itertools.chain([header], pieces):
        file.write(pack.compress(piece) if packed else piece)
    file.write(pack.flush() if packed else b"")
    return file.getvalue()  # without a copy


def packer() -> Any:
    """Returns what packs by gzip: ISA-L where it is installed, else zlib.

    ISA-L is five times as fast as zlib at its lowest level. Higher levels of zlib take five times as long again, and
    gain a few per cent.
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(1, wbits=31)
    return isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)


def is_packed_name(path: Path) -> bool:
    """Returns whether the name of a file says that it is packed; other programs go by the name."""
    return path.name.lower().endswith((".gz", ".mgz"))
