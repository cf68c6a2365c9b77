"""Sums of whole numbers without masks: the same bits as with masks, at the cost of a float sum."""

from dataclasses import dataclass

import numpy as np

from fedjax_mri.fed.secure.fixed_point import check_grid, secured
from fedjax_mri.fed.uplink.contract import Uplink


@dataclass(frozen=True)
class Integer:
    """Settings of sums in fixed point."""

    range: float = 1.0  # largest magnitude of a value that a client sends; larger ones are clipped to it and counted
    bits: int = (
        0  # a value is sent as a number of steps of range / 2^bits; 0: as many bits as the cohort leaves room for
    )

    def __post_init__(self) -> None:
        check_grid(self.range, self.bits)

    def build(self, uplink: Uplink, cohort_size: int, sizes: np.ndarray) -> Uplink:
        """Returns the uplink with sums in fixed point. Raises UserError as the contract says."""
        return secured(uplink, cohort_size, sizes, self.range, self.bits, masked=False)

    def hides(self) -> str:
        """Returns in words that nothing is hidden."""
        return "nothing is hidden: updates are summed as whole numbers, with the bits that masks would leave"
