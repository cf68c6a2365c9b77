"""How a run is executed on the machine. A plan changes how long a result takes, not the result itself."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from fedjax_mri.core import devices, memory
from fedjax_mri.core.errors import UserError

Conv = Literal["auto", "xla", "gemm", "direct", "each"]
Precision = Literal["float32", "tf32", "bf16"]
PyTree = Any
AXIS = "clients"  # the one axis of the mesh


class DoesNotFit(UserError):
    """Raised if a program or its data need more memory than there is."""


@dataclass(frozen=True)
class Plan:
    """Settings that change time and memory alone, except `precision`. 0 and "auto" mean: choose for this machine.

    Results of any two plans agree to float32 rounding, unless one of them has another precision.
    """

    devices: int = 0  # devices the clients are spread over
    lanes: int = 0  # clients trained side by side on each device
    conv: Conv = "auto"  # how convolutions are computed, see nets/conv/conv2d.py
    precision: Precision = "float32"  # of products, see nets/conv/compute.py
    remat: bool = False  # recompute all but products in the backward pass: less memory, more time
    loop: Literal["segment", "round"] = "segment"  # rounds compiled as one program, or each called by the host
    evaluate_batch: int = 256  # examples judged at once on each device
    data: Literal["replicated", "sharded", "streamed"] = "replicated"  # examples: see fed/engine/placement.py
    clients: Literal["device", "host"] = "device"  # where the state of clients is held between rounds
    members: Literal["auto", "map", "vmap"] = "auto"  # runs of one program: in turn or side by side
    memory_mb: int = 0  # of each device, for examples and client state; 0: all it has
    tune_s: float = 60.0  # seconds to measure candidates for open fields, see fed/engine/auto.py; 0: rules

    def resolve(self) -> "Plan":
        """Returns the plan with open fields filled in by fixed rules.

        Raises UserError if a field is out of range or asks for more devices than there are.
        """
        here = devices.current()
        available = here.number
        if not 0 <= self.devices <= available:
            raise UserError(f"plan.devices={self.devices}: this machine has {available}; choose 1 to {available}")
        if self.devices % here.processes:
            raise UserError(
                f"plan.devices={self.devices}: they are those of {here.processes} processes; choose a multiple of "
                f"{here.processes}, or 0 for all {available}"
            )
        if self.lanes < 0 or self.evaluate_batch < 1:
            raise UserError(f"plan.lanes={self.lanes}, plan.evaluate_batch={self.evaluate_batch}: must be 1 or more")
        if self.memory_mb < 0:
            raise UserError(f"plan.memory_mb={self.memory_mb}: must be a number of megabytes, or 0 for all there is")
        if self.tune_s < 0:
            raise UserError(f"plan.tune_s={self.tune_s}: must be a number of seconds, or 0 for fixed rules")
        by_platform: dict[str, tuple[int, Conv]] = {"cpu": (1, "direct"), "tpu": (4, "xla")}
        lanes, conv = by_platform.get(here.platform, (4, "each"))
        lanes, conv = self.lanes or lanes, conv if self.conv == "auto" else self.conv
        return dataclasses.replace(self, devices=self.devices or available, lanes=lanes, conv=conv)

    def mesh(self) -> jax.sharding.Mesh:
        """Returns the mesh of this plan's devices, equally many of each process, with one axis."""
        here = devices.current()
        per_process = self.devices // here.processes
        chosen = [device for process in range(here.processes) for device in here.of_process(process)[:per_process]]
        return jax.make_mesh((self.devices,), (AXIS,), (jax.sharding.AxisType.Auto,), devices=chosen)

    def replicated_sharding(self) -> jax.sharding.NamedSharding:
        """Returns the sharding of arrays that each device holds whole."""
        return jax.sharding.NamedSharding(self.mesh(), jax.sharding.PartitionSpec())

    def sharded_over_devices(self) -> jax.sharding.NamedSharding:
        """Returns the sharding of arrays whose leading axis is divided among the devices."""
        return jax.sharding.NamedSharding(self.mesh(), jax.sharding.PartitionSpec(AXIS))

    def replicate(self, tree: PyTree) -> PyTree:
        """Returns `tree`, which must be the same in every process, as arrays that each device holds whole."""
        sharding = self.replicated_sharding()
        if sharding.is_fully_addressable:
            return jax.device_put(tree, sharding)
        arrays = jax.tree.map(np.asarray, tree)
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), arrays)

    def memory(self) -> float:
        """Returns the memory of each device in bytes. Devices of a CPU share the memory of the host equally."""
        here = devices.current()
        if here.memory is not None:
            return here.memory
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats.get("bytes_limit", memory.host_limit().bytes * here.processes / self.devices)

    def budget(self) -> float:
        """Returns the bytes that each device may use for examples and client state."""
        return self.memory_mb * 1e6 or self.memory()

    def refuse_excess(self, analysis: Any) -> None:
        """Raises DoesNotFit if a compiled program needs more memory than a device has, by its memory `analysis`."""
        if analysis is None:  # some backends have no such analysis
            return
        arguments = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        need, available = analysis.temp_size_in_bytes + arguments, self.memory()
        if need > available:
            lanes = int(self.lanes * available / need)
            smaller = "--plan.remat, or a smaller local.batch" if self.remat is False else "a smaller local.batch"
            raise DoesNotFit(
                f"plan.lanes={self.lanes}: the program needs {need / 1e6:.0f} MB on each device, "
                f"{(need - available) / 1e6:.0f} MB more than its {available / 1e6:.0f}; "
                + (f"choose --plan.lanes {lanes}" if lanes else f"choose {smaller}")
            )
