"""The accelerators that programs can be compiled for, and what their makers say of them."""

import re
from typing import NamedTuple

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
    launch_s: float  # time that a kernel takes at least
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


# NVIDIA: data sheets of A100 80GB SXM, H100 SXM, H200 SXM and HGX B200; fp32 outside tensor cores, TF32 and bf16 in
# them, without sparsity. NVLink is given for both directions together, so half of it counts. Hosts are joined by 400
# Gbit/s for each GPU, 200 on A100. Google: "TPU v5e", "v5p" and "v6e" in the documentation of Cloud TPU; products in
# float32 take six passes of bf16. Links of a TPU are given for all its links together, and one ring uses a part.
# A kernel of a CUDA graph takes 2 us from start to start, one of a TPU program 1 us or less: both are assumptions.
_NVLINK_4, _NDR = Network(450e9, 3e-6), Network(50e9, 10e-6)


def _nvidia(name: str, gigabytes: float, terabytes_per_s: float, teraflops: tuple[float, float, float]) -> Accelerator:
    flops = dict(zip(("float32", "tf32", "bf16"), (each * 1e12 for each in teraflops)))
    return Accelerator(name, "gpu", gigabytes * 1e9, terabytes_per_s * 1e12, flops, 2e-6, 8, _NVLINK_4, _NDR)


def _google(name: str, gigabytes: float, terabytes_per_s: float, teraflops: float, gigabits: float) -> Accelerator:
    flops = {"float32": teraflops * 1e12 / 6, "tf32": teraflops * 1e12 / 6, "bf16": teraflops * 1e12}
    links = Network(gigabits / 8 * 1e9 / 2, 1e-6)
    return Accelerator(name, "tpu", gigabytes * 1e9, terabytes_per_s * 1e12, flops, 1e-6, 4, links, links)


ACCELERATORS = {
    each.name: each
    for each in (
        _nvidia("a100", 80, 2.039, (19.5, 156, 312))._replace(
            within=Network(300e9, 3e-6), between=Network(25e9, 10e-6)
        ),
        _nvidia("h100", 80, 3.35, (67, 494.5, 989.5)),
        _nvidia("h200", 141, 4.8, (67, 494.5, 989.5)),
        _nvidia("b200", 180, 7.7, (75, 1125, 2250))._replace(within=Network(900e9, 3e-6)),
        _google("v5e", 16, 0.819, 197, 1600),
        _google("v5p", 95, 2.765, 459, 4800),
        _google("v6e", 32, 1.64, 918, 3584),
    )
}


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
