"""The contract of privacy: what a level of it adds to a simulation, and what it tells of the budget."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fedjax_mri.core import checks
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.sampling import Population, Sampler
from fedjax_mri.fed.uplink.contract import Uplink
from fedjax_mri.fed.uplink.settings import UplinkSettings


class Guarantee(NamedTuple):
    """What a run promises: (epsilon, delta) differential privacy of a unit, after any number of rounds."""

    unit: str  # whose data are protected: "client", "patient"
    budget: float  # the largest epsilon that the run may spend; 0: it only tells what it spends
    delta: float
    noise: float  # noise multiplier: the standard deviation of the noise on a sum, over the bound of a unit's part
    epsilon: Callable[[int], float]  # rounds -> epsilon spent, where hospitals differ by the one that spends most
    # state of the uplink -> lower bound on epsilon that an audit shows; None: the run is not audited
    lower: Callable[[Any], float] | None = None
    mean: Callable[[int], float] | None = None  # rounds -> mean epsilon of hospitals, where they differ


def checked(guarantee: Guarantee, rounds: int) -> Guarantee:
    """Returns `guarantee`. Raises UserError if so many rounds spend more than its budget."""
    if not guarantee.budget:
        return guarantee
    spent = guarantee.epsilon(rounds)
    if spent > guarantee.budget * (1 + 1e-6):
        raise UserError(
            f"privacy.epsilon={guarantee.budget}: {rounds} rounds with noise multiplier {guarantee.noise:.4g} spend "
            f"{spent:.4g} at delta {guarantee.delta:g}; ask for fewer rounds, or raise privacy.epsilon if you want that"
        )
    return guarantee


def check_budget(epsilon: float, delta: float, noise: float) -> None:
    """Raises UserError unless there is a budget, or a noise multiplier, of sensible values."""
    checks.not_negative("privacy.epsilon", epsilon)
    checks.positive("privacy.delta", delta)
    checks.fraction("privacy.delta", delta)
    checks.not_negative("privacy.noise", noise)
    if is_concrete(epsilon) and not epsilon and not noise:
        raise UserError("privacy.epsilon=0.0: the noise follows from the budget; give a budget, or privacy.noise")


class Privacy(Protocol):
    """A frozen dataclass of settings: one level of privacy."""

    def build(self, uplink: UplinkSettings, local: Local, noise: float, clients: Population) -> tuple[Uplink, Local]:
        """Returns the uplink and the local training with privacy; `noise` is the noise multiplier.

        clients: all there are.
        Shapes of states do not depend on `noise`. Raises UserError on settings that would break the guarantee.
        """
        ...

    def guarantee(self, sampler: Sampler, population: Population) -> Guarantee | None:
        """Returns what the run promises, with the noise found from the budget; None without privacy.
        Raises UserError if the accountant does not know how cohorts are drawn, or the budget would be overspent.
        """
        ...
