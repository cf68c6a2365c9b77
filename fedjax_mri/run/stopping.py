"""SIGTERM and Ctrl-C as a wish, granted when nothing would be lost."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from fedjax_mri.run import processes


class Stop:
    """While entered, a first signal only sets `asked`; a Ctrl-C after it stops at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked: signal.Signals | None = None
        self._say = say

    def __enter__(self) -> "Stop":
        self._before = {one: signal.signal(one, self._ask) for one in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: Any) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def agreed(self) -> signal.Signals | None:
        """What any process was asked, so that all stop at the same place. All processes must call it."""
        asked = processes.highest(self.asked or 0)
        if not asked:
            return None  # one that arrives just now waits for the next call
        self.asked = signal.Signals(asked)
        return self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._say(f"{self.asked.name}: finishing this segment, then saving")
