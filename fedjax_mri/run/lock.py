"""One process at a time writes a folder: RUN/lock keeps others out, RUN/lock.json says who is in.

The lock belongs to the operating system, which takes it back when its process dies, however that dies. On some shared
disks a lock is not seen by other machines. So the holder also rewrites lock.json again and again, and a process on
another machine that finds this file watches whether it changes. No clock is read: those of two machines may differ.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import filelock

from fedjax_mri.core import checks, disk
from fedjax_mri.core.errors import UserError

HEARTBEAT = 10.0  # seconds between two heartbeats in lock.json
HEARTBEAT_TIMEOUT = 4 * HEARTBEAT  # seconds without one after which a holder on another machine counts as gone
POLL = 0.5  # seconds between two tries while waiting
BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")  # tells machines apart that have the same name


class Holder(NamedTuple):
    """The process that writes a folder."""

    host: str
    process: int
    since: str  # date and time
    machine: str
    token: str  # differs each time the lock is taken

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


class Waiting(NamedTuple):
    """What to do when another process writes the folder."""

    seconds: float = 0.0  # how long to wait for it
    take_over: bool = False  # from a process on another machine, without watching whether it lives


@contextlib.contextmanager
def hold(
    folder: pathlib.Path,
    waiting: Waiting = Waiting(),  # noqa: B008  (immutable)
    say: Callable[[str], None] = print,
    name: str = "lock",
) -> Iterator[Callable[[], None]]:
    """Keeps all other processes from holding `folder` while entered; makes the folder if it is not there.

    Gives a function that raises UserError when another process has taken over. Raises UserError, naming the holder,
    when another process holds the folder and does not leave it in time.
    """
    checks.not_negative("--wait", waiting.seconds)
    made = not folder.exists()
    if not made and not folder.is_dir():
        raise UserError(f"{folder}: is a file where a folder is needed; choose another path")
    folder.mkdir(parents=True, exist_ok=True)
    lock, file = filelock.FileLock(folder / name), folder / f"{name}.json"
    acquire(lock, file, waiting, say)
    me = this_process()
    ended = threading.Event()
    try:
        write(file, me)
        threading.Thread(target=send_heartbeats, args=(file, me, ended), daemon=True).start()
        yield lambda: refuse_taken_over(file, me)
    finally:
        ended.set()
        leave(folder, lock, file, me, made)


def acquire(lock: filelock.BaseFileLock, file: pathlib.Path, waiting: Waiting, say: Callable[[str], None]) -> None:
    """Returns when this process has the lock. Raises UserError when another one keeps it."""
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holder = f"{read(file) or 'another process'}"
        if waiting.seconds > 0:
            say(f"{file.parent}: waiting up to {waiting.seconds:g} s for {holder}")
        try:
            lock.acquire(timeout=waiting.seconds, poll_interval=POLL)
        except filelock.Timeout:
            raise in_use(file, holder) from None
    elsewhere = read(file)
    if elsewhere is None or elsewhere.machine == this_process().machine or waiting.take_over:
        return  # the lock of a process of this machine is gone with the process
    say(f"{file.parent}: last written by {elsewhere}; watching for {HEARTBEAT_TIMEOUT:g} s whether it is still there")
    if not is_gone(file, max(waiting.seconds, HEARTBEAT_TIMEOUT)):
        lock.release()
        raise in_use(file, str(elsewhere))


def in_use(file: pathlib.Path, holder: str) -> UserError:
    """Returns the error for a folder that `holder` writes."""
    return UserError(
        f"{file.parent}: {holder} writes this folder; stop it, choose another --out, or wait for it with --wait SECONDS"
    )


def is_gone(file: pathlib.Path, seconds: float) -> bool:
    """Returns whether a holder sends no heartbeat for HEARTBEAT_TIMEOUT; False when that takes more than `seconds`."""
    end, since, before = time.monotonic() + seconds, time.monotonic(), content(file)
    while before is not None and time.monotonic() - since < HEARTBEAT_TIMEOUT:
        time.sleep(min(POLL, HEARTBEAT / 2))
        if (now := content(file)) != before:
            before, since = now, time.monotonic()
        if time.monotonic() > end + POLL:
            return False
    return True


def send_heartbeats(file: pathlib.Path, me: Holder, ended: threading.Event) -> None:
    """Rewrites lock.json at each beat until this process has `ended` holding, or another one has taken over."""
    while not ended.wait(HEARTBEAT):
        if read(file) not in (me, None):
            return
        with contextlib.suppress(OSError):  # a full disk stops the checkpoint, with words
            write(file, me)


def write(file: pathlib.Path, me: Holder) -> None:
    """Writes lock.json, each time with another content."""
    disk.write_json(file, {**me._asdict(), "heartbeat": uuid.uuid4().hex})


def read(file: pathlib.Path) -> Holder | None:
    """Returns the holder that lock.json names; None where it names none or is damaged."""
    try:
        found = json.loads(content(file) or "")
        return Holder(*(found[name] for name in Holder._fields))
    except (ValueError, KeyError, TypeError):
        return None


def content(file: pathlib.Path) -> str | None:
    """Returns the text of a file; None where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def this_process() -> Holder:
    """Returns this process as a new holder."""
    host, machine = socket.gethostname(), content(BOOT) or ""
    return Holder(host, os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"), f"{host} {machine.strip()}", uuid.uuid4().hex)


def refuse_taken_over(file: pathlib.Path, me: Holder) -> None:
    """Raises UserError when another process holds the folder now."""
    other = read(file)
    if other is not None and other.token != me.token:
        raise UserError(
            f"{file.parent}: {other} has taken over this folder; this run stops, and has saved nothing since"
        )


def leave(folder: pathlib.Path, lock: filelock.BaseFileLock, file: pathlib.Path, me: Holder, made: bool) -> None:
    """Ends holding. A folder that was made for it goes as well if it is empty."""
    with contextlib.suppress(OSError):
        if read(file) == me:
            file.unlink()
        (folder / file.stem).unlink(missing_ok=True)  # safe: a process that waits for it looks for it anew
        if made:
            folder.rmdir()
    lock.release()
