"""Sums of whole numbers under masks that cancel, as between machines (Bonawitz et al. 2017, CCS, section 4)."""

from dataclasses import dataclass

import numpy as np

from fedjax_mri.fed.secure.fixed_point import check_grid, secured
from fedjax_mri.fed.uplink.contract import Uplink


@dataclass(frozen=True)
class Masked:
    """Settings of masked sums in fixed point: each client adds a mask for each place of the cohort."""

    range: float = 1.0  # as in `Integer`
    bits: int = 0

    def __post_init__(self) -> None:
        check_grid(self.range, self.bits)

    def build(self, uplink: Uplink, cohort_size: int, sizes: np.ndarray) -> Uplink:
        """Returns the uplink with masked sums. Raises UserError as the contract says."""
        return secured(uplink, cohort_size, sizes, self.range, self.bits, masked=True)

    def hides(self) -> str:
        """Returns in words what masks would hide, and what this simulation does not."""
        return (
            "between machines each update would be hidden from the server, which learns the sum and who sent; this "
            "simulation makes all masks itself and hides nothing from the host that runs it"
        )
