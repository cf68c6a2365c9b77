"""No secure aggregation: the default."""

from dataclasses import dataclass

import numpy as np

from fedjax_mri.fed.uplink.contract import Uplink


@dataclass(frozen=True)
class Off:
    """Settings of a run that sums updates as they are, in floats."""

    def build(self, uplink: Uplink, cohort_size: int, sizes: np.ndarray) -> Uplink:
        """Returns the uplink unchanged."""
        return uplink

    def hides(self) -> str:
        """Returns an empty string."""
        return ""
