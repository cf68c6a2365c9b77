"""The protocol over sockets: one process a client and one for the server, by `multiprocessing.connection`.

Only bytes travel, never pickled objects. The connections need no secrecy of their own, since the server may read all
that it passes on. `key` keeps strangers from the port; clients are known by their signatures.
"""

import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener, wait
from threading import Thread
from typing import NamedTuple

import numpy as np

from fedjax_mri.secure import client as protocol
from fedjax_mri.secure import server
from fedjax_mri.secure.crypto import Entropy, KeyPair
from fedjax_mri.secure.faults import Refused
from fedjax_mri.secure.wire import Session

ENDED = b""  # from the server to a client, when no more messages come
ROOM = 1 << 16  # bytes of a message besides its vector, for each client of the session


class Served(NamedTuple):
    """What a round came to at the server."""

    words: np.ndarray  # uint32 [d], the sum
    sent: tuple[int, ...]  # clients whose vectors are in it
    refused: tuple[str, ...]  # why messages were refused


def serve(listener: Listener, session: Session, patience_s: float) -> Served:
    """Returns the sum of a round with the clients that connect, each of which has `patience_s` for a step.

    Messages that are refused are noted, and the round goes on without them. Raises Refused where too few are left.
    """
    state, refused = server.start(session), list[str]()
    waiting, connections = list[Connection](), dict[int, Connection]()
    Thread(target=_accept, args=(listener, waiting), daemon=True).start()
    for step in range(len(server.STEPS)):
        deadline = time.monotonic() + patience_s
        while _may_come(state, connections, waiting) and time.monotonic() < deadline:
            ready = wait(waiting, min(0.05, max(0.0, deadline - time.monotonic())))
            for connection in [one for one in waiting if one in ready]:
                data = _received(connection, waiting, session)
                if data is None:
                    continue
                try:
                    state, number = server.receive(state, data)
                    connections[number] = connection
                except Refused as error:
                    refused.append(str(error))
            if not waiting:
                time.sleep(0.01)
        if step == len(server.STEPS) - 1:
            break
        state, messages = server.close(state)
        for number, message in messages.items():
            _send(connections[number], message)
    words = server.finish(state)
    for connection in waiting:
        _send(connection, ENDED)
    return Served(words, state.sent, tuple(refused))


def take_part(
    address: tuple[str, int],
    key: bytes,
    session: Session,
    number: int,
    signing: KeyPair,
    words: np.ndarray,
    entropy: Entropy,
    before: Callable[[protocol.State, bytes], None] = lambda state, message: None,
) -> None:
    """Takes part in a round as client `number` with the vector `words` uint32 [d], until the server ends it.

    `before` is called with each state and message before it is sent. Raises Refused for what the server may not ask.
    """
    state: protocol.State
    state, message = protocol.start(session, number, signing, entropy)
    with Client(address, authkey=key) as connection:
        before(state, message)
        connection.send_bytes(message)
        while data := connection.recv_bytes(limit(session)):
            state, message = protocol.answer(state, data, words, entropy)
            before(state, message)
            connection.send_bytes(message)


def limit(session: Session) -> int:
    """Returns the most bytes that a message can have."""
    return 4 * session.length + ROOM * len(session.identities)


def _may_come(state: server.State, connections: Mapping[int, Connection], waiting: list[Connection]) -> bool:
    """Returns whether a client is missing in this step that has not hung up."""
    missing = set(state.members) - set(state.received)
    return any(number not in connections or connections[number] in waiting for number in missing)


def _accept(listener: Listener, waiting: list[Connection]) -> None:
    """Adds each client that connects, until the listener is closed."""
    while True:
        try:
            waiting.append(listener.accept())
        except OSError:
            return
        except Exception:  # whoever has no key, or hangs up at once: multiprocessing raises several kinds
            continue


def _received(connection: Connection, waiting: list[Connection], session: Session) -> bytes | None:
    """Returns what has come in; None, and the connection is forgotten, where it has ended or sends too much."""
    try:
        return connection.recv_bytes(limit(session))
    except (EOFError, OSError):
        waiting.remove(connection)
        return None


def _send(connection: Connection, message: bytes) -> None:
    try:
        connection.send_bytes(message)
    except OSError:
        return  # the client has gone: it will be missing in the next step
