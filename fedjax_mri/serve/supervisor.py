"""Keeps the worker process running: starts it, starts it again when it dies, and counts what it held then."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from fedjax_mri.core import disk
from fedjax_mri.run import config as configs
from fedjax_mri.serve import store
from fedjax_mri.serve.settings import Settings

PAUSE = 1.0  # seconds before a worker that died is started again


class Supervisor:
    """The worker of a server; it is entered while the server runs."""

    def __init__(self, home: Path, places: list[Path], settings: Settings) -> None:
        self.home = home
        self._words = {"places": [str(one) for one in places], "settings": configs.to_dict(settings)}
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Supervisor":
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ending.set()
        while self._thread.is_alive():  # it may be about to start the process
            if self._process is not None:
                self._process.kill()  # what it holds is done again by the next one
            self._thread.join(0.1)

    @property
    def state(self) -> str:
        """Whether the worker is "ready", "starting" or "down"."""
        if self._process is None or self._process.poll() is not None:
            return "down"
        return "ready" if (self.home / "worker.ready").exists() else "starting"

    def _watch(self) -> None:
        while not self._ending.is_set():
            (self.home / "worker.ready").unlink(missing_ok=True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedjax_mri.serve.worker", str(self.home)],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the server, which ends it
            )
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(self._words).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                pass
            self._process.wait()
            self._process.stdin.close()
            if not self._ending.is_set():
                count_crash(self.home)
                self._ending.wait(PAUSE)


def count_crash(home: Path) -> None:
    """Adds one to the count of each item that the worker held when it died."""
    held = (store.read(home / "held.json") or {}).get("held", [])
    counts = store.read(home / "crashes.json") or {}
    disk.write_json(home / "crashes.json", counts | {one: counts.get(one, 0) + 1 for one in held})
