"""How a run is executed: everything that may change the time a result takes, and nothing that may change the result."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from fedjax_mri.core.errors import UserError

Conv = Literal["auto", "xla", "gemm", "direct"]
AXIS = "clients"  # the one axis of the mesh


@dataclass(frozen=True)
class Plan:
    """Settings that move time and memory only, but for `precision`; 0 and "auto": choose for this machine.

    Results of any two plans agree to float32 rounding, unless one of them has another precision.
    """

    devices: int = 0  # devices the clients are spread over
    lanes: int = 0  # clients trained side by side on each device
    conv: Conv = "auto"  # how convolutions are computed, see nets/conv/conv2d.py
    precision: Literal["float32", "tf32", "bf16"] = "float32"  # of products, see nets/conv/compute.py
    remat: bool = False  # recompute in the backward pass what lies between products: less memory, more time
    loop: Literal["segment", "round"] = "segment"  # rounds compiled as one program, or each called by the host
    evaluate_batch: int = 256  # examples judged at once on each device
    data: Literal["replicated", "sharded", "streamed"] = "replicated"  # examples: see fed/placement.py
    clients: Literal["device", "host"] = "device"  # where what stays with clients between rounds is held
    members: Literal["auto", "map", "vmap"] = "auto"  # runs of one program, see fed/members.py: in turn, side by side
    memory_mb: int = 0  # of each device, for examples and client state; 0: all it has
    tune_s: float = 60.0  # seconds for measuring candidates of what is left open, see fed/auto.py; 0: fixed rules

    def resolve(self) -> "Plan":
        """The plan with all that is open decided by rule. Raises UserError when it asks for what is not there."""
        there = jax.device_count()
        if not 0 <= self.devices <= there:
            raise UserError(f"plan.devices={self.devices}: this machine has {there}; choose 1 to {there}")
        if self.devices % jax.process_count():
            raise UserError(f"plan.devices={self.devices}: choose a multiple of {jax.process_count()}, the processes")
        if self.lanes < 0 or self.evaluate_batch < 1:
            raise UserError(f"plan.lanes={self.lanes}, plan.evaluate_batch={self.evaluate_batch}: must be 1 or more")
        if self.memory_mb < 0:
            raise UserError(f"plan.memory_mb={self.memory_mb}: must be a number of megabytes, or 0 for all there is")
        on_cpu = jax.default_backend() == "cpu"
        usual: Conv = "direct" if on_cpu else "gemm"
        lanes, conv = self.lanes or (1 if on_cpu else 16), usual if self.conv == "auto" else self.conv
        return dataclasses.replace(self, devices=self.devices or there, lanes=lanes, conv=conv)

    def mesh(self) -> jax.sharding.Mesh:
        """A line of this many devices, as many of each process, with the one axis `clients`."""
        kind, each = (jax.sharding.AxisType.Auto,), self.devices // jax.process_count()
        devices = [one for process in range(jax.process_count()) for one in jax.local_devices(process)[:each]]
        return jax.make_mesh((self.devices,), (AXIS,), kind, devices=devices)

    def everywhere(self) -> jax.sharding.NamedSharding:
        """The sharding of arrays that each device holds whole."""
        return jax.sharding.NamedSharding(self.mesh(), jax.sharding.PartitionSpec())

    def divided(self) -> jax.sharding.NamedSharding:
        """The sharding of arrays with a leading axis [devices]."""
        return jax.sharding.NamedSharding(self.mesh(), jax.sharding.PartitionSpec(AXIS))

    def put(self, tree: Any) -> Any:
        """`tree`, the same in every process, whole on each device."""
        whole = self.everywhere()
        if whole.is_fully_addressable:
            return jax.device_put(tree, whole)
        arrays = jax.tree.map(np.asarray, tree)
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, whole, lambda index: x[index]), arrays)

    def memory(self) -> float:
        """Bytes each device has; host devices share what the machine has."""
        stats = jax.local_devices()[0].memory_stats() or {}
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * jax.process_count()
        return stats.get("bytes_limit", whole / self.devices)

    def budget(self) -> float:
        """Bytes each device may spend on examples and client state."""
        return self.memory_mb * 1e6 or self.memory()

    def refuse_excess(self, analysis: Any) -> None:
        """Raises UserError where a compiled program, by its memory analysis, wants more than a device has."""
        if analysis is None:  # some backends do not say
            return
        arguments = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        need, there = analysis.temp_size_in_bytes + arguments, self.memory()
        if need > there:
            lanes = int(self.lanes * there / need)
            smaller = "--plan.remat, or a smaller local.batch" if self.remat is False else "a smaller local.batch"
            raise UserError(
                f"plan.lanes={self.lanes}: the program needs {need / 1e6:.0f} MB on each device, "
                f"{(need - there) / 1e6:.0f} MB more than its {there / 1e6:.0f}; "
                + (f"choose --plan.lanes {lanes}" if lanes else f"choose {smaller}")
            )
