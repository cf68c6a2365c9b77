"""The contract of secure aggregation: how it changes the uplink of a simulation."""

from typing import Protocol

import numpy as np

from fedjax_mri.fed.uplink.contract import Uplink


class Secure(Protocol):
    """A frozen dataclass of settings: one way to sum updates."""

    def build(self, uplink: Uplink, cohort_size: int, sizes: np.ndarray) -> Uplink:
        """Returns the uplink whose reduction sums updates in this way.

        cohort_size: places of a cohort; sizes: int32 [N], examples of all clients. Raises UserError for an uplink whose
        server needs single updates, and for sums that could overflow.
        """
        ...

    def hides(self) -> str:
        """Returns in words what is hidden, and from whom; empty if updates are summed as they are."""
        ...
