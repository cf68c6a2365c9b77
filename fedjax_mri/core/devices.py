"""The devices that programs are compiled for: those of this machine, or those of a machine that is not here."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax

CACHE = "jax_enable_compilation_cache"


class Devices(NamedTuple):
    """Devices of one kind, of all processes together."""

    number: int
    platform: str  # "cpu", "gpu" or "tpu"
    processes: int
    every: tuple[jax.Device, ...]  # empty where only their number is known, and nothing is compiled
    memory: float | None = None  # bytes of each; None: the device itself is asked
    present: bool = True  # False: programs for them can be compiled, but not run

    def of_process(self, process: int) -> list[jax.Device]:
        """Returns the devices of one process."""
        return [device for device in self.every if device.process_index == process]


_chosen: Devices | None = None  # by `compiling_for`


def current() -> Devices:
    """Returns the devices that `compiling_for` has chosen, or else those of this machine."""
    if _chosen is not None:
        return _chosen
    return Devices(jax.device_count(), jax.default_backend(), jax.process_count(), tuple(jax.devices()))


@contextlib.contextmanager
def compiling_for(devices: Devices) -> Iterator[None]:
    """Plans and programs that are made while this is entered are for `devices`."""
    global _chosen
    before, caching = _chosen, getattr(jax.config, CACHE)
    _chosen = devices
    if not devices.present:  # programs in XLA's cache can be read by the devices that are to run them alone
        jax.config.update(CACHE, False)
    try:
        yield
    finally:
        jax.config.update(CACHE, caching)
        _chosen = before
