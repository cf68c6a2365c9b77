"""The memory of the host is the lowest of several limits, each read where the system keeps it."""

import pathlib
import resource

import jax
import pytest

from fedjax_mri.core import memory
from fedjax_mri.fed.engine.plan import Plan

MB = 2**20
CASES = {
    "version 2": ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": f"{3 * MB}\n"}, 3),
    "version 2, the group above is lower": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": f"{9 * MB}\n",
            "sys/fs/cgroup/a/memory.max": f"{2 * MB}\n",
        },
        2,
    ),
    "version 2, no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
    "version 1": (
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/job\n1:name=systemd:/y\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * MB}\n",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{1 * MB}\n",
        },
        4,
    ),
    "version 1, in a container that sees its own group at the top": (
        {
            "proc/self/cgroup": "4:memory:/docker/12ab\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{5 * MB}\n",
        },
        5,
    ),
    "version 1, no limit": (
        {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"},
        None,
    ),
    "no such files": ({}, None),
}


def physical() -> float:
    return memory.host_limit(pathlib.Path("/nowhere"), {}).bytes


@pytest.mark.parametrize("case", CASES)
def test_limits_of_control_groups_count(case, tmp_path) -> None:
    files, megabytes = CASES[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = memory.host_limit(tmp_path, {})
    assert found.bytes == (physical() if megabytes is None else megabytes * MB)
    assert ("control group" in found.source) == (megabytes is not None)


@pytest.mark.parametrize(
    ("environment", "megabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "12"}, 12),
        ({"SLURM_MEM_PER_NODE": "1K"}, 2**-10),
        ({"SLURM_MEM_PER_CPU": "3", "SLURM_CPUS_ON_NODE": "4"}, 12),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "3"}, None),
        ({"SLURM_MEM_PER_NODE": "all"}, None),
    ],
)
def test_limits_of_slurm_count(environment, megabytes, tmp_path) -> None:
    found = memory.host_limit(tmp_path, environment)
    assert found.bytes == (physical() if megabytes is None else megabytes * MB)
    assert ("SLURM" in found.source) == (megabytes is not None)


def test_the_limit_of_ulimit_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (7 * MB if which == resource.RLIMIT_AS else -1, -1))
    assert memory.host_limit(tmp_path, {}) == (7 * MB, "ulimit -v")
    assert Plan(devices=1).memory() == 7 * MB and Plan(devices=2).memory() == 3.5 * MB


def test_an_error_that_says_that_memory_ran_out_is_known() -> None:
    exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12 bytes.")
    assert memory.ran_out(exhausted) and memory.ran_out(MemoryError())
    assert not memory.ran_out(jax.errors.JaxRuntimeError("INTERNAL: no tile sizes"))
    assert not memory.ran_out(ValueError("out of memory"))
