"""Messages and their bytes: version 1.

    magic "FMSA" | version, 1 byte | type, 1 byte | session, 16 bytes | round | sender | body | signature

Numbers are 4 bytes, the highest first; vectors are 4 bytes a value, the lowest first. The sender is a client's number,
or SERVER. Clients sign all that stands before the signature with Ed25519. The server signs nothing, since it is not
trusted: what it passes on is signed, or encrypted, by clients. A message of another version, type or length is refused.
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.secure import crypto
from fedjax_mri.secure.faults import Fault, Refused, require

MAGIC, VERSION, SERVER = b"FMSA", 1, 2**32 - 1
HEADER = struct.Struct(">4sBB16sII")
SIGNATURE_BYTES = 64
NUMBER = struct.Struct(">I")


class Advertise(NamedTuple):
    """R0, client to server: the public keys of a client for this round, and the commitment to its seed."""

    mask_key: bytes
    channel_key: bytes
    seed_commitment: bytes


class Roster(NamedTuple):
    """R0, server to clients: the signed `Advertise` of each client that has sent one."""

    signed: tuple[bytes, ...]


class Shares(NamedTuple):
    """R1, client to server: encrypted shares by the client they are for."""

    sealed: tuple[tuple[int, bytes], ...]


class Inbox(NamedTuple):
    """R1, server to a client: encrypted shares for it by the client they are from."""

    sealed: tuple[tuple[int, bytes], ...]


class Masked(NamedTuple):
    """R2, client to server: the masked vector."""

    words: np.ndarray  # uint32 [d]


class Survivors(NamedTuple):
    """R2, server to clients: who has sent a masked vector, and who has not."""

    sent: tuple[int, ...]
    dropped: tuple[int, ...]


class Agreement(NamedTuple):
    """R3, client to server: the survivors that the client was told of."""

    sent: tuple[int, ...]
    dropped: tuple[int, ...]


class Agreements(NamedTuple):
    """R3, server to clients: the signed `Agreement` of each survivor that has sent one."""

    signed: tuple[bytes, ...]


class Unmask(NamedTuple):
    """R4, client to server: shares of the seeds of survivors, and of the secret keys of those that dropped out."""

    seeds: tuple[tuple[int, bytes], ...]
    keys: tuple[tuple[int, bytes], ...]


Message = Advertise | Roster | Shares | Inbox | Masked | Survivors | Agreement | Agreements | Unmask
# Of each type its fields: a number of bytes, or a list of "texts", "numbers", pairs of both, or "words".
LAYOUTS: dict[int, tuple[Any, tuple[int | str, ...]]] = {
    1: (Advertise, (32, 32, 32)),
    2: (Roster, ("texts",)),
    3: (Shares, ("pairs",)),
    4: (Inbox, ("pairs",)),
    5: (Masked, ("words",)),
    6: (Survivors, ("numbers", "numbers")),
    7: (Agreement, ("numbers", "numbers")),
    8: (Agreements, ("texts",)),
    9: (Unmask, ("pairs", "pairs")),
}
TYPES = {kind: code for code, (kind, _) in LAYOUTS.items()}


class Session(NamedTuple):
    """One round of one group of clients, as all of them know it beforehand and not from the server."""

    name: bytes  # 16 bytes, of the training as a whole
    round: int  # never the same twice in a session
    identities: Mapping[int, bytes]  # number of a client -> its public key of Ed25519
    threshold: int  # of clients that must take part to the end
    length: int  # d, of each vector

    @property
    def context(self) -> bytes:
        """What all keys of the round are derived from besides secrets."""
        return self.name + NUMBER.pack(self.round)


def session(
    name: bytes, round: int, identities: Mapping[int, bytes], length: int, active_server: bool = True
) -> Session:
    """Returns the session with the smallest threshold that is safe.

    That is floor(2n/3) + 1 of n clients, so that a server that lies cannot make two groups of them give it both kinds
    of shares; with a server that follows the protocol and is curious alone, floor(n/2) + 1.
    """
    n = len(identities)
    return checked(Session(name, round, dict(identities), (2 * n // 3 if active_server else n // 2) + 1, length))


def checked(session: Session) -> Session:
    """Returns `session`. Refuses one in which fewer than half could unmask, and senseless numbers."""
    n = len(session.identities)
    require(len(session.name) == 16, Fault.LENGTH, f"session: the name must have 16 bytes, not {len(session.name)}")
    require(0 <= session.round < SERVER and session.length > 0, Fault.LENGTH, "session: round or length out of range")
    require(
        all(0 <= one < SERVER for one in session.identities), Fault.SENDER, "session: a client's number is too large"
    )
    require(
        n >= 2 and n // 2 < session.threshold <= n,
        Fault.THRESHOLD,
        f"session: threshold {session.threshold} of {n} clients; choose {n // 2 + 1} to {n}, of 2 clients or more",
    )
    return session


def encode(session: Session, sender: int, message: Message, secret: bytes | None = None) -> bytes:
    """Returns the bytes of a message; a client signs it with the `secret` half of its signing key."""
    code = TYPES[type(message)]
    header = HEADER.pack(MAGIC, VERSION, code, session.name, session.round, sender)
    body = header + b"".join(_written(kind, value) for kind, value in zip(LAYOUTS[code][1], message))
    return body if secret is None else body + crypto.signature(secret, body)


def decode(session: Session, data: bytes) -> tuple[int, Message]:
    """Returns the sender and the message of bytes that came in; refuses all that is not as it must be."""
    require(len(data) >= HEADER.size and data[:4] == MAGIC, Fault.FORMAT, f"{len(data)} bytes")
    _, version, code, name, round, sender = HEADER.unpack_from(data)
    require(version == VERSION, Fault.VERSION, f"{version}; this is version {VERSION}")
    require(code in LAYOUTS, Fault.TYPE, str(code))
    require((name, round) == (session.name, session.round), Fault.SESSION, f"{name.hex()}, round {round}")
    kind, layout = LAYOUTS[code]
    end = len(data)
    if sender != SERVER:
        require(sender in session.identities, Fault.SENDER, str(sender))
        end -= SIGNATURE_BYTES
        valid = crypto.is_signed(session.identities[sender], data[max(end, 0) :], data[: max(end, 0)])
        require(valid, Fault.SIGNATURE, f"{kind.__name__} in the name of client {sender}")
    values, place = [], HEADER.size
    try:
        for field in layout:
            value, place = _read(field, data, place, end)
            values.append(value)
    except (struct.error, IndexError):
        raise Refused(Fault.LENGTH, f"{kind.__name__} of {len(data)} bytes ends too early") from None
    require(place == end, Fault.LENGTH, f"{kind.__name__} of {len(data)} bytes, where {place} are read")
    return sender, kind(*values)


def _written(field: int | str, value: Any) -> bytes:
    if isinstance(field, int):
        return bytes(value)
    count = NUMBER.pack(len(value))
    if field == "words":
        return count + np.ascontiguousarray(value, "<u4").tobytes()
    if field == "numbers":
        return count + b"".join(NUMBER.pack(one) for one in value)
    if field == "texts":
        return count + b"".join(NUMBER.pack(len(one)) + one for one in value)
    return count + b"".join(NUMBER.pack(number) + NUMBER.pack(len(one)) + one for number, one in value)


def _read(field: int | str, data: bytes, place: int, end: int) -> tuple[Any, int]:
    """Returns a field that begins at `place`, and where it ends. Raises IndexError where that is beyond `end`."""
    if isinstance(field, int):
        return _cut(data, place, field, end)
    count, place = _number(data, place, end)
    if field == "words":
        raw, place = _cut(data, place, 4 * count, end)
        return np.frombuffer(raw, "<u4").astype(np.uint32), place
    found: list[Any] = []
    for _ in range(count):  # each takes bytes, so that a wrong count ends with the message
        if field != "texts":
            number, place = _number(data, place, end)
        if field != "numbers":
            size, place = _number(data, place, end)
            text, place = _cut(data, place, size, end)
        found.append(number if field == "numbers" else text if field == "texts" else (number, text))
    return tuple(found), place


def _number(data: bytes, place: int, end: int) -> tuple[int, int]:
    raw, place = _cut(data, place, NUMBER.size, end)
    return NUMBER.unpack(raw)[0], place


def _cut(data: bytes, place: int, size: int, end: int) -> tuple[bytes, int]:
    if place + size > end:
        raise IndexError
    return data[place : place + size], place + size
