"""Seconds spent on each kind of work."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Sums seconds for each kind of work; `last` is the latest measurement."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = 0.0

    @contextlib.contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Adds the seconds of the `with` body to `what`. The body must wait for its arrays."""
        start = time.perf_counter()
        yield
        self.last = time.perf_counter() - start
        self.seconds[what] = self.seconds.get(what, 0.0) + self.last
