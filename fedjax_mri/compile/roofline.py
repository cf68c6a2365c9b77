"""The time that a compiled program would take, estimated from what its kernels compute and move.

A kernel takes the longer of two times: that of its products at the device's rate, and that of its bytes at the
bandwidth of the memory (the roofline of Williams, Waterman and Patterson 2009), and besides a fixed time to start.
Kernels follow one another. Exchanges between devices take their bytes' time and a latency for each hop.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fedjax_mri.compile.kernels import Collective, Event, Kernel, Wait


class Rates(NamedTuple):
    """The speeds of a device with which times are estimated."""

    flops: Mapping[str, float]  # operations a second in products, by the type of their factors
    bandwidth: float  # bytes/s of its memory
    launch_s: float  # seconds that each kernel takes to start
    wait_s: float = 0.0  # seconds until the host has read the condition of a loop
    clock_hz: float = 0.0  # with which the compiler's cycles are turned into seconds; 0: they are not used


class Links(NamedTuple):
    """The networks that join the devices: of a host, and of the hosts."""

    devices: int
    hosts: int
    within: float  # bytes/s that a device sends to others of its host
    between: float  # bytes/s that a device sends to other hosts
    within_s: float  # latency of a message
    between_s: float


class Seconds(NamedTuple):
    """The time of a part of a program, by what it is spent on."""

    products: float = 0.0
    memory: float = 0.0
    launches: float = 0.0  # of kernels, and waits for the host
    network: float = 0.0

    @property
    def total(self) -> float:
        """Returns the seconds of all that the time is spent on."""
        return sum(self)

    def times(self, count: float) -> "Seconds":
        """Returns the time of `count` such parts."""
        return Seconds(*(count * each for each in self))

    def plus(self, other: "Seconds") -> "Seconds":
        """Returns the time of both parts, one after the other."""
        return Seconds(*(a + b for a, b in zip(self, other)))


class Schedule(NamedTuple):
    """How often a device runs the parts of a round."""

    passes: float  # local steps of all lanes at once
    refills: float  # times that some lanes change clients


def part_seconds(events: Iterable[Event], part: str, rates: Rates, links: Links) -> Seconds:
    """Returns the time of one pass through a part of a program: "segment", "round", "client" or "step"."""
    total = Seconds()
    for event in events:
        if event.part == part:
            total = total.plus(_seconds(event, rates, links).times(event.times))
    return total


def _seconds(event: Event, rates: Rates, links: Links) -> Seconds:
    if isinstance(event, Wait):
        return Seconds(launches=rates.wait_s)
    if isinstance(event, Collective):
        return Seconds(network=collective_seconds(event, links))
    return kernel_seconds(event, rates)


def kernel_seconds(kernel: Kernel, rates: Rates) -> Seconds:
    """Returns the time of a kernel. Where the compiler expects more cycles than the roofline, these count."""
    launch = rates.launch_s if kernel.launched else 0.0
    # Factors of a type without a rate of its own count at the slowest.
    products = kernel.flops / rates.flops.get(kernel.dtype, min(rates.flops.values()))
    memory = kernel.bytes / rates.bandwidth
    longest = max(products, memory, kernel.cycles / rates.clock_hz if rates.clock_hz else 0.0)
    if kernel.flops and (products >= memory or longest > memory):
        return Seconds(products=longest, launches=launch)
    return Seconds(memory=longest, launches=launch)


def collective_seconds(collective: Collective, links: Links) -> float:
    """Returns the time of an exchange: one in each host, then one of the hosts, in which all devices send.

    Among n devices each sends 2 (n - 1) / n times the bytes of an all-reduce, as in a ring, and half of that of any
    other. The latency is that of a tree, which libraries choose for few bytes.
    """
    inner = max(1, links.devices // links.hosts)
    times = 2 if collective.kind == "all-reduce" else 1
    within = _exchange(collective.bytes, inner, links.within, links.within_s)
    return times * (within + _exchange(collective.bytes / inner, links.hosts, links.between, links.between_s))


def _exchange(sent: float, devices: int, rate: float, latency: float) -> float:
    """Returns the time in which each of `devices` sends all but its own share of `sent` bytes."""
    return sent * (devices - 1) / devices / rate + latency * math.ceil(math.log2(devices)) if devices > 1 else 0.0


def round_seconds(events: list[Event], schedule: Schedule, rates: Rates, links: Links) -> Seconds:
    """Returns the time of a round."""
    step, client, rest = (part_seconds(events, part, rates, links) for part in ("step", "client", "round"))
    return step.times(schedule.passes).plus(client.times(schedule.refills)).plus(rest)
