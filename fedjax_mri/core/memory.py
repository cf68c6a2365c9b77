"""How much memory this process may use on the host, and whether an error says that memory ran out."""

import errno
import os
import pathlib
import re
import resource
from collections.abc import Iterator, Mapping
from typing import NamedTuple

EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory")
ROOT = pathlib.Path("/")
UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # bytes, as SLURM counts


class Limit(NamedTuple):
    """The most memory that this process may use on the host."""

    bytes: float
    source: str  # what sets the limit, in words


def host_limit(root: pathlib.Path = ROOT, environment: Mapping[str, str] | None = None) -> Limit:
    """Returns the lowest of the limits that the machine, its control groups, SLURM and `ulimit -v` set.

    Files of the system are looked up below `root`.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [
        Limit(physical, "the memory of the machine"),
        *cgroup_limits(root),
        *slurm_limits(os.environ if environment is None else environment),
    ]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(Limit(address_space, "ulimit -v"))
    return min(limits)


def cgroup_limits(root: pathlib.Path) -> Iterator[Limit]:
    """Yields the limits of this process's control groups and of the groups above them, of version 1 and 2.

    A container may see its own group at the top and not at the path that the process is told, so that all are read.
    """
    for folder, name in _cgroup_folders(root):
        value = _read(folder / name).strip()
        if value.isdecimal():  # "max" is no limit
            yield Limit(int(value), "the limit of the control group")


def _cgroup_folders(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Yields folders of control groups that may hold a limit, and the name of the limit's file."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        top = root / "sys/fs/cgroup" / ("memory" if version_1 else "")
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield folder, "memory.limit_in_bytes" if version_1 else "memory.max"


def slurm_limits(environment: Mapping[str, str]) -> Iterator[Limit]:
    """Yields what SLURM has given to this job on this node; 0 stands for all there is."""
    node, core = (_megabytes(environment.get(f"SLURM_MEM_PER_{unit}", "")) for unit in ("NODE", "CPU"))
    cores = re.match(r"\d+", environment.get("SLURM_CPUS_ON_NODE", ""))
    if node:
        yield Limit(node, "SLURM_MEM_PER_NODE")
    if core and cores:
        yield Limit(core * int(cores[0]), "SLURM_MEM_PER_CPU")


def _megabytes(text: str) -> int:
    """Returns the bytes of a number of megabytes, which may have another unit than M; 0 if it is no number."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text)
    return int(found[1]) * UNITS[found[2]] if found else 0


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def ran_out(error: BaseException) -> bool:
    """Returns whether an error says that memory of the host or of a device ran out.

    JAX need not be imported to know.
    """
    of_jax = any(one.__name__ == "JaxRuntimeError" for one in type(error).__mro__)
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or of_system or (of_jax and bool(EXHAUSTED.search(str(error))))
