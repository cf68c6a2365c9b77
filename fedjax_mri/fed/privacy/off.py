"""No privacy: the default."""

from dataclasses import dataclass

from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.privacy.contract import Guarantee
from fedjax_mri.fed.sampling import Population, Sampler
from fedjax_mri.fed.uplink.contract import Uplink
from fedjax_mri.fed.uplink.settings import UplinkSettings


@dataclass(frozen=True)
class Off:
    """Settings of a run without differential privacy."""

    def build(self, uplink: UplinkSettings, local: Local, noise: float, clients: Population) -> tuple[Uplink, Local]:
        """Returns the uplink and the local training unchanged."""
        return uplink.build(), local

    def guarantee(self, sampler: Sampler, population: Population) -> Guarantee | None:
        """Returns None: nothing is promised."""
        return None
