"""The processes of one run meet before JAX joins them: process 0 waits until it has heard from each of the others.

JAX would wait for them in silence, and is ended from C++ where something is wrong. Here every mistake gets one line.
Process 0 listens at the port that JAX uses afterwards. Each other process sends one line and gets one line back.
"""

import contextlib
import os
import re
import select
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from fedjax_mri.core.errors import UserError, short_message

QUIET_S = 1.0  # seconds of waiting before it is mentioned: processes that are started together say nothing
LINE_S = 5.0  # seconds in which a program that connects must send its line
NAME_S = 5.0  # seconds in which an unknown host must become known, except in Kubernetes, where names appear with pods
PAUSE_S = 0.1  # between two tries
HELLO = re.compile(r"fedjax-mri (\d+)/(\d+)")
GO = "go"

Say = Callable[[str], None]


class ProcessPlace(NamedTuple):
    """Where a process stands among those of its run."""

    number: int  # INDEX, from 0
    processes: int  # COUNT
    host: str  # of process 0
    port: int
    flag: str  # what the user has typed, for errors

    @property
    def address(self) -> str:
        """Returns where process 0 listens."""
        return f"{self.host}:{self.port}"


class Deadline:
    """Counts the seconds that a process has waited, and says once what it waits for."""

    def __init__(self, seconds: float, say: Say) -> None:
        self._start, self._seconds, self._say, self._said = time.monotonic(), seconds, say, False

    def waited(self) -> float:
        """Returns the seconds since the beginning."""
        return time.monotonic() - self._start

    def left(self) -> float:
        """Returns the seconds until the end."""
        return self._seconds - self.waited()

    def mention(self, what: str) -> None:
        """Says what is waited for, once, if it has taken longer than processes that are started together need."""
        if not self._said and self.waited() > QUIET_S:
            self._said = True
            self._say(f"waiting for {what}, for {self._seconds:g} s at most (--join-timeout)")


class Peer(NamedTuple):
    """Another process as process 0 knows it."""

    number: int
    line: socket.socket


def meet(place: ProcessPlace, seconds: float, say: Say) -> None:
    """Returns when all processes of the run have met.

    Raises UserError, in all that are there, when they have not met after `seconds` or do not belong together.
    """
    deadline = Deadline(seconds, say)
    if place.number:
        answer(place, deadline)
    elif place.processes > 1:
        call(place, deadline)


def call(place: ProcessPlace, deadline: Deadline) -> None:
    """Waits, as process 0, for all others. Raises UserError, and tells it to those that are there."""
    peers = list[Peer]()
    with listen(place) as server:
        try:
            while len(peers) < place.processes - 1:
                absent = sorted({*range(1, place.processes)} - {peer.number for peer in peers})
                deadline.mention(
                    f"{len(absent)} of {place.processes} processes at {place.address}: INDEX {few(absent)}"
                )
                if deadline.left() < 0:
                    raise UserError(
                        f"{place.flag}: no process with INDEX {few(absent)} has come to {place.address} within "
                        f"{deadline.waited():.0f} s; start them with the same PLACE but for INDEX, or give more time "
                        "by --join-timeout"
                    )
                peers[:] = [peer for peer in peers if not is_gone(peer)]
                admit(server, place, peers)
        except UserError as error:
            tell(peers, str(error))
            raise
    tell(peers, GO)


def few(numbers: list[int]) -> str:
    """Returns the first numbers of a list as text."""
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def listen(place: ProcessPlace) -> socket.socket:
    """Returns the socket at which process 0 listens. Raises UserError when the port is taken."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", place.port), family=family, dualstack_ipv6=both, backlog=place.processes)
    except (OSError, OverflowError) as error:  # OverflowError: a number above 65535
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(
            f"{place.flag}: port {place.port} cannot be used ({reason}); another run or another process with INDEX 0 "
            "may use it: choose another port"
        ) from None
    server.settimeout(PAUSE_S)
    return server


def admit(server: socket.socket, place: ProcessPlace, peers: list[Peer]) -> None:
    """Adds the next process that comes, if one does. Raises UserError when it does not belong to this run."""
    try:
        line, _ = server.accept()
    except TimeoutError:
        return
    found = HELLO.fullmatch(read_line(line, LINE_S))
    if not found:  # not one of ours
        line.close()
        return
    index, count = int(found[1]), int(found[2])
    known = {peer.number for peer in peers} | {0}
    peers.append(Peer(index, line))
    if count != place.processes:
        raise UserError(
            f"{place.flag}: process {index} has COUNT {count} and process 0 has {place.processes}; give all one COUNT"
        )
    if index in known:
        raise UserError(
            f"{place.flag}: two processes have INDEX {index}; give each its own, 0 to {place.processes - 1}"
        )


def is_gone(peer: Peer) -> bool:
    """Returns whether a process has ended since it came. A waiting one sends nothing, so data mean an end."""
    return bool(select.select([peer.line], [], [], 0)[0])


def tell(peers: list[Peer], text: str) -> None:
    """Sends a line to all that are there, and hangs up."""
    for peer in peers:
        with contextlib.suppress(OSError), peer.line:
            peer.line.sendall(f"{text}\n".encode())


def answer(place: ProcessPlace, deadline: Deadline) -> None:
    """Waits, as another process than 0, until process 0 has heard from all. Raises UserError with what it says."""
    while True:
        try:
            with socket.create_connection((place.host, place.port), timeout=LINE_S) as line:
                line.sendall(f"fedjax-mri {place.number}/{place.processes}\n".encode())
                reply = wait_for_line(line, place, deadline)
            break
        except OSError as error:
            refuse_unreachable(place, deadline, error)
        time.sleep(PAUSE_S)
    if reply == GO:
        return
    if reply.startswith("--distributed"):
        raise UserError(reply)
    raise UserError(
        f"{place.flag}: no process 0 that waits for others is at {place.address}: it has ended, or a run that has "
        "begun or another program uses the port; start all processes again, or choose another port"
    )


def refuse_unreachable(place: ProcessPlace, deadline: Deadline, error: OSError) -> None:
    """Raises UserError when process 0 has been out of reach for too long, by the `error` of the last try."""
    deadline.mention(f"process 0 at {place.address}")
    unknown = isinstance(error, socket.gaierror)
    if unknown and deadline.waited() > NAME_S and "KUBERNETES_SERVICE_HOST" not in os.environ:
        raise UserError(
            f"{place.flag}: no host is named {place.host!r}; give the name of process 0's machine"
        ) from None
    if deadline.left() < 0:
        raise UserError(
            f"{place.flag}: process 0 has not been at {place.address} within {deadline.waited():.0f} s "
            f"({short_message(error)}); start all with the same PLACE but for INDEX, or give more time by "
            "--join-timeout"
        ) from None


def wait_for_line(line: socket.socket, place: ProcessPlace, deadline: Deadline) -> str:
    """Returns the reply of process 0, which ends by itself when the others do not come."""
    while not select.select([line], [], [], PAUSE_S)[0]:
        deadline.mention(f"others, as process 0 at {place.address} does")
    return read_line(line, LINE_S)


def read_line(line: socket.socket, seconds: float) -> str:
    """Returns the next line that comes within `seconds`, at most 10,000 bytes; "" if it does not come."""
    line.settimeout(seconds)
    with contextlib.suppress(OSError, UnicodeDecodeError), line.makefile("rb") as file:
        return file.readline(10_000).decode().rstrip("\n")
    return ""
