"""The accelerators that programs can be compiled for, and what their makers say of them."""

import re
from typing import NamedTuple

from fedjax_mri.compile.roofline import Links, Rates
from fedjax_mri.core.errors import UserError


class Network(NamedTuple):
    """What joins the devices of a machine."""

    bytes_per_s: float  # that a device sends and receives at once
    hop_s: float  # latency of one message


class Accelerator(NamedTuple):
    """One kind of device, by its data sheet."""

    name: str
    platform: str  # "gpu" or "tpu"
    memory: float  # bytes
    bandwidth: float  # bytes/s of its memory
    flops: dict[str, float]  # precision -> floating-point operations a second, dense
    launch_s: float  # time that a kernel takes to start
    wait_s: float  # until the host has read the condition of a loop; 0: the device reads it itself
    clock_hz: float  # of a TPU, whose compiler counts cycles; 0: it does not
    per_host: int  # devices of one host
    within: Network  # between devices of a host; of a TPU, of its slice
    between: Network  # between hosts


class Machine(NamedTuple):
    """A number of accelerators of one kind, on as many hosts as that takes."""

    accelerator: Accelerator
    size: int  # accelerators

    @property
    def hosts(self) -> int:
        """Returns the number of hosts."""
        return -(-self.size // self.accelerator.per_host)

    @property
    def name(self) -> str:
        """Returns the name by which the machine is asked for, such as "h200:8"."""
        return f"{self.accelerator.name}:{self.size}"


# Shares of the data sheets' rates that programs reach. They are assumptions, about what large products and large copies
# reach; so are the times to start a kernel (in a CUDA graph, or a TPU's program) and to read a condition.
PRODUCTS_SHARE, BANDWIDTH_SHARE = 0.6, 0.8

# NVIDIA: data sheets of A100 80GB SXM, H100 SXM, H200 SXM and HGX B200; float32 is outside tensor cores, TF32 and bf16
# in them without sparsity. NVLink is given for both directions together, so half of it counts. Hosts are joined by 400
# Gbit/s for each GPU, 200 for an A100. Google: pages "TPU v5e", "v5p" and "v6e" of the documentation of Cloud TPU. A
# product in float32 takes six passes of bf16 (JAX's precision "highest", which float32 is here). A chip's links are
# given together. Exchanges run along one axis of the torus in both directions: half of the links, a third of a v5p's.
_NVLINK_4, _NDR = Network(450e9, 3e-6), Network(50e9, 10e-6)


def _nvidia(name: str, gibibytes: float, terabytes_per_s: float, teraflops: tuple[float, float, float]) -> Accelerator:
    flops = dict(zip(("float32", "tf32", "bf16"), (each * 1e12 for each in teraflops)))
    return Accelerator(
        name, "gpu", gibibytes * 2**30, terabytes_per_s * 1e12, flops, 2e-6, 10e-6, 0.0, 8, _NVLINK_4, _NDR
    )


def _google(name: str, gibibytes: float, terabytes_per_s: float, teraflops: float, gigabits: float) -> Accelerator:
    flops = {"float32": teraflops * 1e12 / 6, "tf32": teraflops * 1e12 / 6, "bf16": teraflops * 1e12}
    axes, clock = 3 if name == "v5p" else 2, 1.5e9 if name == "v5e" else 1.75e9
    links = Network(gigabits / 8 * 1e9 / axes, 1e-6)
    return Accelerator(
        name, "tpu", gibibytes * 2**30, terabytes_per_s * 1e12, flops, 0.5e-6, 0.0, clock, 4, links, links
    )


ACCELERATORS = {
    each.name: each
    for each in (
        _nvidia("a100", 80, 2.039, (19.5, 156, 312))._replace(
            within=Network(300e9, 3e-6), between=Network(25e9, 10e-6)
        ),
        _nvidia("h100", 80, 3.35, (67, 494.5, 989.5)),
        _nvidia("h200", 141, 4.8, (67, 494.5, 989.5)),
        _nvidia("b200", 179, 7.7, (75, 1125, 2250))._replace(within=Network(900e9, 3e-6)),
        _google("v5e", 16, 0.819, 197, 1600),
        _google("v5p", 95, 2.765, 459, 4800),
        _google("v6e", 32, 1.64, 918, 3584),
    )
}


def rates(accelerator: Accelerator, precision: str) -> Rates:
    """Returns what a device is assumed to attain with float32 factors multiplied in `precision`."""
    flops = {
        "f32": PRODUCTS_SHARE * accelerator.flops[precision],
        "bf16": PRODUCTS_SHARE * accelerator.flops["bf16"],
    }
    bandwidth = BANDWIDTH_SHARE * accelerator.bandwidth
    return Rates(flops, bandwidth, accelerator.launch_s, accelerator.wait_s, accelerator.clock_hz)


def links(machine: Machine, devices: int) -> Links:
    """Returns the networks between so many devices of a machine, equally many of each host."""
    kind = machine.accelerator
    within, between = kind.within, kind.between
    return Links(
        devices, min(machine.hosts, devices), within.bytes_per_s, between.bytes_per_s, within.hop_s, between.hop_s
    )


def parse(text: str) -> Machine:
    """Returns the machine that `text` names, such as "h200:8". Raises UserError for any other."""
    found = re.fullmatch(r"(\w+):([1-9]\d{0,4})", text)
    if found is None or found[1] not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        raise UserError(f"--for {text}: give KIND:NUMBER such as h200:8, of the kinds {known}")
    machine = Machine(ACCELERATORS[found[1]], int(found[2]))
    if machine.hosts > 1 and machine.size % machine.accelerator.per_host:
        raise UserError(
            f"--for {text}: a host has {machine.accelerator.per_host} of them; give a number up to that or a multiple"
        )
    return machine
