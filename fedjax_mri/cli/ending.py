"""Ends this process on SIGTERM and Ctrl-C, whatever its main thread does.

Python's own handlers run in the main thread, when a compiled program returns to it. So a thread also hears the signals.
It does nothing as long as the main thread answers, and ends the process at a second signal, or if nobody answers the
first in time (core/signal_timeout.py). A thread cannot help only where C++ hangs and lets no other thread of Python
run.
"""

import contextlib
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Callable

from fedjax_mri.core import signal_timeout

BUSY_AFTER = 1.0  # seconds after a first signal before a line says that the process is still busy
STOPPING = (signal.SIGTERM, signal.SIGINT)


def end_silently() -> None:
    """Makes Ctrl-C end this process without a word, unless it is to be ignored, as in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_with_a_line() -> None:
    """Undoes `end_silently`."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def watch(kept: Callable[[], str]) -> None:
    """Starts a thread that ends this process if its main thread does not answer a signal.

    `kept` tells what is on disk then.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    threading.Thread(target=end, args=(receiver, kept), daemon=True).start()


def end(receiver: socket.socket, kept: Callable[[], str]) -> None:
    """Waits for a first signal, gives the main thread the time to heed it, and ends the process."""
    first = next_signal(receiver, None)
    if first is None:
        return
    signal_timeout.asked = first
    seconds, again = signal_timeout.seconds(), next_signal(receiver, BUSY_AFTER)
    if again is None:
        say(f"{first.name}: still busy; ends within {seconds:.0f} s, or at once if you ask again")
        again = next_signal(receiver, seconds - BUSY_AFTER)
    way = f"after {seconds:.0f} s without an answer" if again is None else "at once"
    say(f"{first.name}: ended {way}; {kept()}")
    os._exit(128 + first)


def next_signal(receiver: socket.socket, seconds: float | None) -> signal.Signals | None:
    """Returns the next signal that should stop this process; None if none comes in so many seconds."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or time.monotonic() < deadline:
        receiver.settimeout(deadline and max(deadline - time.monotonic(), 0.001))
        try:
            numbers = receiver.recv(64)
        except TimeoutError:
            return None
        found = [number for number in STOPPING if number in numbers]
        if found:
            return found[0]
    return None


def say(line: str) -> None:
    """Writes a line to stderr. The main thread may hold the lock of the stream, so the stream is not used."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode("ascii", "backslashreplace"))


def kept(run: pathlib.Path) -> str:
    """Returns which checkpoint lies in the folder of a run, or of its variants; an empty string if there is none."""
    found = [path for pattern in ("", "*/") for path in run.glob(f"{pattern}checkpoints/*") if path.name.isdecimal()]
    if not found:
        return ""
    newest = max(found, key=lambda path: (path.stat().st_mtime, int(path.name)))
    return f"the checkpoint of round {newest.name} is kept; the same command goes on from there"
