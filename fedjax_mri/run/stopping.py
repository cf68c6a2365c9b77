"""SIGTERM and Ctrl-C as requests to stop, granted when nothing would be lost."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from fedjax_mri.run import processes


class StopSignal:
    """While entered, a first signal only sets `received`; a Ctrl-C after it stops at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received: signal.Signals | None = None
        self._say = say

    def __enter__(self) -> "StopSignal":
        self._before = {one: signal.signal(one, self._receive) for one in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: Any) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def received_by_any(self) -> signal.Signals | None:
        """Returns the signal that any process has received, so that all stop at the same place.

        All processes must call it.
        """
        number = processes.highest(self.received or 0)
        if not number:
            return None  # one that arrives just now waits for the next call
        self.received = signal.Signals(number)
        return self.received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._say(f"{self.received.name}: finishing this segment, then saving")
