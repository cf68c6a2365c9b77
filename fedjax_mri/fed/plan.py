"""How a run is executed: everything that may change the time a result takes, and nothing that may change the result."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from fedjax_mri.errors import UserError

AXIS = "clients"  # the one axis of the mesh


@dataclass(frozen=True)
class Plan:
    """Settings that move time and memory only; 0 means: choose for this machine."""

    devices: int = 0  # devices the clients are spread over
    lanes: int = 0  # clients trained side by side on each device
    conv: Literal["xla", "gemm"] = "gemm"  # how convolutions are computed, see nets/layers.py
    evaluate_batch: int = 256  # examples judged at once on each device
    data: Literal["replicated", "sharded", "streamed"] = "replicated"  # examples: see fed/placement.py
    clients: Literal["device", "host"] = "device"  # where what stays with clients between rounds is held
    memory_mb: int = 0  # of each device, for examples and client state; 0: all it has

    def resolve(self) -> "Plan":
        """The plan with each 0 decided. Raises UserError when it asks for devices that are not there."""
        there = jax.device_count()
        if not 0 <= self.devices <= there:
            raise UserError(f"plan.devices={self.devices}: this machine has {there}; choose 1 to {there}")
        if self.devices % jax.process_count():
            raise UserError(f"plan.devices={self.devices}: choose a multiple of {jax.process_count()}, the processes")
        if self.lanes < 0 or self.evaluate_batch < 1:
            raise UserError(f"plan.lanes={self.lanes}, plan.evaluate_batch={self.evaluate_batch}: must be 1 or more")
        if self.memory_mb < 0:
            raise UserError(f"plan.memory_mb={self.memory_mb}: must be a number of megabytes, or 0 for all there is")
        lanes = self.lanes or (4 if jax.default_backend() == "cpu" else 16)
        return dataclasses.replace(self, devices=self.devices or there, lanes=lanes)

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

    def budget(self) -> float:
        """Bytes each device may spend on examples and client state; infinite where it does not say what it has."""
        return self.memory_mb * 1e6 or (jax.devices()[0].memory_stats() or {}).get("bytes_limit", float("inf"))
