"""How a run is executed: everything that may change the time a result takes, and nothing that may change the result."""

from dataclasses import dataclass
from typing import Literal

import jax

from fedjax_mri.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Settings that move time and memory only; 0 means: choose for this machine."""

    devices: int = 0  # devices the clients are spread over
    lanes: int = 0  # clients trained side by side on each device
    conv: Literal["xla", "gemm"] = "gemm"  # how convolutions are computed, see nets/layers.py
    evaluate_batch: int = 256  # examples judged at once on each device

    def resolve(self) -> "Plan":
        """The plan with each 0 decided. Raises UserError when it asks for devices that are not there."""
        there = jax.device_count()
        if not 0 <= self.devices <= there:
            raise UserError(f"plan.devices={self.devices}: this machine has {there}; choose 1 to {there}")
        if self.devices % jax.process_count():
            raise UserError(f"plan.devices={self.devices}: choose a multiple of {jax.process_count()}, the processes")
        if self.lanes < 0 or self.evaluate_batch < 1:
            raise UserError(f"plan.lanes={self.lanes}, plan.evaluate_batch={self.evaluate_batch}: must be 1 or more")
        lanes = self.lanes or (4 if jax.default_backend() == "cpu" else 16)
        return Plan(self.devices or there, lanes, self.conv, self.evaluate_batch)

    def mesh(self) -> jax.sharding.Mesh:
        """A line of this many devices, as many of each process, with the one axis `clients`."""
        kind, each = (jax.sharding.AxisType.Auto,), self.devices // jax.process_count()
        devices = [one for process in range(jax.process_count()) for one in jax.local_devices(process)[:each]]
        return jax.make_mesh((self.devices,), ("clients",), kind, devices=devices)
