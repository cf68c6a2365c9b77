"""How JAX is set up: settings with which this package would fail, the choice of its platform, its devices and cache."""

import contextlib
import glob
import importlib.util
import os
import pathlib
import pkgutil

import jax

from fedjax_mri.core import cache
from fedjax_mri.core.errors import UserError

REFUSED = {  # what JAX's configuration must not say, and why
    "jax_enable_x64": "training computes in float32 and bfloat16 with 32-bit counts",
    "jax_disable_jit": "a federation is one compiled program",
}


def prepare_jax(devices: int = 0) -> None:
    """Gives JAX so many devices on a CPU, or one for each core, and keeps compiled programs between runs.

    A program that has used JAX before keeps the devices that it has. Raises UserError on settings of JAX that cannot
    train.
    """
    check_jax()
    prefer_cpu_without_devices()
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # its devices are in use already
            jax.config.update("jax_num_cpu_devices", devices or cores())
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "xla"))
    if cache.users_folder() is None:
        os.environ.setdefault("MPLCONFIGDIR", str(cache.folder()))  # Matplotlib would warn, in many words, as well


def cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_jax() -> None:
    """Raises UserError if JAX was told, by the environment or by a call, to compute in a way that cannot train."""
    for name, reason in REFUSED.items():
        if getattr(jax.config, name):
            raise UserError(f"{name.upper()}=1 (JAX's {name}): {reason}; leave it unset")


NVIDIA_FILES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvgpu*", "/dev/dxg")  # of drivers: Linux, Jetson, Windows (WSL)
GOOGLE = "0x1ae0"  # the vendor of TPUs on the PCI bus


def prefer_cpu_without_devices() -> None:
    """Makes JAX use the CPU where it has plug-ins for GPUs or TPUs and the machine has none.

    They may be installed as compilers (extras aot-cuda and aot-tpu). JAX would look for their devices at each start,
    which takes a second and warns. A choice by JAX_PLATFORMS stands, and so does a plug-in of another maker.
    """
    spec = importlib.util.find_spec("jax_plugins")
    found = {module.name for module in pkgutil.iter_modules(spec.submodule_search_locations or ())} if spec else set()
    cuda, tpu = {name for name in found if "cuda" in name}, importlib.util.find_spec("libtpu") is not None
    if getattr(jax.config, "jax_platforms", None) or not (cuda or tpu) or found - cuda:
        return
    if not any(map(glob.glob, NVIDIA_FILES)) and not has_tpu():
        jax.config.update("jax_platforms", "cpu")


def has_tpu() -> bool:
    """Returns whether a device of Google's is on the PCI bus, as JAX itself looks for TPUs."""
    vendors = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(path.read_text(encoding="ascii").strip() == GOOGLE for path in vendors)
