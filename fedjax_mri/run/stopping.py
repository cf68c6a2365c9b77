"""SIGTERM and Ctrl-C as requests to stop, granted when nothing would be lost."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from fedjax_mri.core import signal_timeout
from fedjax_mri.run import processes


class StopSignal:
    """While entered, a first signal only sets `received` if segments are trained; a Ctrl-C after it stops at once.

    Before the first segment there is nothing to save, so a signal stops at once: it raises KeyboardInterrupt with its
    number. Outside the main thread signals stay as they are, because Python lets only the main thread change them.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received: signal.Signals | None = None
        self._say = say
        self._training = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._receive) for one in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: Any) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def received_by_any(self) -> signal.Signals | None:
        """Returns the signal that any process has received, so that all stop at the same place.

        All processes must call it, before the first and after each segment.
        """
        self._training = True
        signal_timeout.note_answer()
        # Python's answer to a signal, an exception, is lost where a library or C++ drops it.
        number = processes.all_max(self.received or signal_timeout.asked)
        if not number:
            return None  # one that arrives just now waits for the next call
        self.received = signal.Signals(number)
        return self.received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not self._training:
            raise KeyboardInterrupt(number)
        self._say(f"{self.received.name}: finishing this segment, then saving")
