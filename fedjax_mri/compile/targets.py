"""Devices of machines that are not here, as JAX's compilers know them."""

import importlib.util
import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from fedjax_mri.compile.machines import Machine
from fedjax_mri.core.devices import Devices
from fedjax_mri.core.errors import UserError, install, short_message

PLUGINS = {"gpu": ("jax_plugins.xla_cuda13", "aot-cuda"), "tpu": ("libtpu", "aot-tpu")}  # module and extra
CUDA = "13.0.0"  # of the driver and the libraries; from 12.3 on, branches are decided on the device
# Share of a device's memory that programs can have: of a GPU's what JAX takes at its start by default
# (XLA_PYTHON_CLIENT_MEM_FRACTION), of a TPU's all but what its runtime keeps.
USABLE = {"gpu": 0.75, "tpu": 0.97}
# Otherwise both plug-ins look for their devices, and warn when there are none; and one process locks out all others.
ENVIRONMENT = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


class Chip(NamedTuple):
    """What NVIDIA's compiler must know of a GPU, by the CUDA programming guide's table of compute capabilities."""

    description: str
    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    units: int  # float32 units of each
    shared: int  # bytes of shared memory of each
    shared_block: int  # bytes of it that a block can have
    cache: int  # bytes of the second-level cache
    clock_ghz: float


CHIPS = {
    "a100": Chip("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 41943040, 1.41),
    "h100": Chip("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98),
    "h200": Chip("NVIDIA H200", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98),
    "b200": Chip("NVIDIA B200", (10, 0), 148, 128, 233472, 232448, 132644864, 1.965),
}


def compile_devices(machine: Machine) -> Devices:
    """Returns the devices of a machine that need not be here, to compile programs for them.

    Raises UserError where the compiler's plug-in is missing, or knows no such machine.
    """
    module, extra = PLUGINS[machine.accelerator.platform]
    if not is_installed(module):
        raise UserError(f"--for {machine.name}: the compiler for it is missing; {install(extra)}")
    return described_devices(machine)._replace(every=tuple(topology(machine).devices[: machine.size]))


def described_devices(machine: Machine) -> Devices:
    """Returns the devices of a machine as far as they can be described without a compiler.

    Raises UserError where there is no such machine.
    """
    kind = machine.accelerator
    if kind.platform == "tpu":
        tpu_shape(machine)  # there may be no slice of that size
    return Devices(machine.size, kind.platform, machine.hosts, (), USABLE[kind.platform] * kind.memory, present=False)


def is_installed(module: str) -> bool:
    """Returns whether Python finds a module."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def topology(machine: Machine) -> topologies.TopologyDescription:
    """Returns JAX's description of a machine, from which the compiler takes what it must know of it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        if machine.accelerator.platform == "gpu":
            shape = f"1x{machine.hosts}x{-(-machine.size // machine.hosts)}"
            return topologies.get_topology_desc("", "cuda", target_config=gpu_text(machine), topology=shape)
        host = (1, 1, 1) if machine.size == 1 else (2, 2, 1)
        return topologies.get_topology_desc(tpu_shape(machine), "tpu", chips_per_host_bounds=host)
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        raise UserError(
            f"--for {machine.name}: the compiler does not know this machine: {short_message(error)}"
        ) from error


def tpu_shape(machine: Machine) -> str:
    """Returns the name of a TPU slice of so many chips, as square as it can be, such as "v5e:4x4".

    Raises UserError where there is no such slice.
    """
    name, count = machine.accelerator.name, machine.size
    dimensions = 3 if name == "v5p" else 2
    if count & (count - 1) or count > 2 ** (4 * dimensions) or (count == 2):
        most = 2 ** (4 * dimensions)
        raise UserError(f"--for {machine.name}: {name} comes in slices of 1, 4, 8, 16, ... up to {most} chips")
    doublings = count.bit_length() - 1
    sides = sorted(2 ** ((doublings + number) // dimensions) for number in range(dimensions))
    return f"{name}:" + "x".join(map(str, sides if dimensions == 2 else sides[::-1]))


def gpu_text(machine: Machine) -> str:
    """Returns the description of a GPU as text of XLA's message `GpuTargetConfigProto`."""
    chip, kind = CHIPS[machine.accelerator.name], machine.accelerator
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {chip.shared}
  threads_per_core_limit: 2048
  core_count: {chip.cores}
  fpus_per_core: {chip.units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {kind.bandwidth:.0f}
  l2_cache_size: {chip.cache}
  clock_rate_ghz: {chip.clock_ghz}
  device_memory_size: {kind.memory:.0f}
  shared_memory_per_block_optin: {chip.shared_block}
  cuda_compute_capability {{ major: {chip.capability[0]} minor: {chip.capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "{CUDA}"
  runtime_version: "{CUDA}"
  compile_time_toolkit_version: "{CUDA}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.description}"
"""
