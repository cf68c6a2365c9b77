"""The devices that programs are compiled for: those of this machine, or those of a machine that is not here."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax


class Devices(NamedTuple):
    """Devices of one kind, of all processes together."""

    every: tuple[jax.Device, ...]
    platform: str  # "cpu", "gpu" or "tpu"
    processes: int
    memory: float | None  # bytes of each; None: the device itself is asked
    present: bool  # False: programs for them can be compiled, but not run

    def of_process(self, process: int) -> list[jax.Device]:
        """Returns the devices of one process."""
        return [device for device in self.every if device.process_index == process]


_absent: contextvars.ContextVar[Devices | None] = contextvars.ContextVar("absent devices", default=None)


def current() -> Devices:
    """Returns the devices that `compiling_for` has chosen, or else those of this machine."""
    chosen = _absent.get()
    if chosen is not None:
        return chosen
    return Devices(tuple(jax.devices()), jax.default_backend(), jax.process_count(), None, True)


@contextlib.contextmanager
def compiling_for(devices: Devices) -> Iterator[None]:
    """Plans and programs that are made while this is entered are for `devices`."""
    token = _absent.set(devices)
    try:
        yield
    finally:
        _absent.reset(token)
