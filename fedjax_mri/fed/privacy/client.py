"""Client-level differential privacy: who took part, and with what data, cannot be told from the models.

DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963), with independent noise, or noise that is correlated over rounds for
clients that take part in a fixed cycle (DP-FTRL: Kairouz et al. 2021, arXiv 2103.00039).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fedjax_mri.core import checks
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.privacy import accounting
from fedjax_mri.fed.privacy.accounting import Release
from fedjax_mri.fed.privacy.canaries import lower_bound, with_canaries
from fedjax_mri.fed.privacy.contract import Guarantee, check_budget, checked
from fedjax_mri.fed.privacy.mechanism import COUNT_SHARE, clip_to_one, every_client, noisy_sum
from fedjax_mri.fed.sampling import Population, Sampler
from fedjax_mri.fed.uplink.contract import Uplink
from fedjax_mri.fed.uplink.reductions.mean import Mean
from fedjax_mri.fed.uplink.settings import UplinkSettings


@dataclass(frozen=True)
class Client:
    """Settings of client-level privacy: each client's update is clipped, and the server adds noise to their sum."""

    epsilon: float = 8.0  # budget of the whole run; 0: none, the run tells what it spends
    delta: float = 1e-5
    noise: float = 0.0  # noise multiplier; 0: the smallest that keeps the budget
    clip: float = 1.0  # bound on the norm of an update; the first one if it is adaptive
    quantile: float = 0.0  # share of updates that an adaptive bound leaves unclipped, such as .5; 0: the bound is fixed
    audit: int = 0  # canaries that show a lower bound on epsilon; 0: none
    bands: int = 1  # rounds over which noise is correlated, for cyclic sampling; 1: independent noise

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta, self.noise)
        checks.positive("privacy.clip", self.clip)
        checks.fraction("privacy.quantile", self.quantile)
        checks.not_negative("privacy.audit", self.audit)
        if self.bands < 1:
            raise UserError(f"privacy.bands={self.bands}: must be 1 or more")

    def build(self, uplink: UplinkSettings, local: Local, noise: float, clients: Population) -> tuple[Uplink, Local]:
        """Returns the uplink with the mechanism after its stages, in place of its weights and its mean.

        Raises UserError if the uplink's reduction is another one than the mean.
        """
        if not isinstance(uplink.reduce, Mean):
            raise UserError(
                f"privacy: noise is added to a sum, in place of the reduction {type(uplink.reduce).__name__.lower()}; "
                "choose --fed.uplink.reduce mean, or --fed.privacy local, where clients add noise themselves"
            )
        reduce = noisy_sum(self.clip, noise, self.quantile, self.bands)
        private = uplink.build(last=[clip_to_one()])._replace(weigh=every_client, reduce=reduce, empty_round="release")
        return (with_canaries(private, self.audit, noise) if self.audit else private), local

    def guarantee(self, sampler: Sampler, population: Population) -> Guarantee:
        """Returns what the run promises.

        Raises UserError for a way of sampling that has no accountant, and a budget that cannot be kept.
        """
        clients, rounds = len(population.sizes), population.rounds
        release, times = releases(sampler, clients, self.bands)

        def spent(noise: float, rounds: int) -> float:
            return accounting.epsilon(release._replace(noise=noise), times(rounds), self.delta)

        noise = self.noise or accounting.noise_for(self.epsilon, lambda noise: spent(noise, rounds))
        cohort = sampler.rate * clients
        if self.quantile and noise >= 2 * cohort / COUNT_SHARE:
            raise UserError(
                f"privacy.quantile={self.quantile}: with {cohort:.0f} clients in a round, counting them spends all of "
                f"the budget (noise multiplier {noise:.3g}); take a fixed bound, 0, or a cohort above {10 * noise:.0f}"
            )
        if self.audit and sampler.law == "cyclic":
            raise UserError("privacy.audit: canaries come by chance and not in a cycle; choose --fed.sampling poisson")
        lower = (lambda state: lower_bound(state.reduce.canaries, self.delta)) if self.audit else None
        found = Guarantee("client", self.epsilon, self.delta, noise, partial(spent, noise), lower=lower)
        return checked(found, rounds)


def releases(sampler: Sampler, clients: int, bands: int) -> tuple[Release, Callable[[int], int]]:
    """Returns a round as the accountant sees it, without its noise, and what gives a client's rounds among all.

    Raises UserError if it does not know the way of sampling.
    """
    cohort = round(sampler.rate * clients)
    if sampler.law == "cyclic":
        if bands > clients // cohort:
            raise UserError(f"privacy.bands={bands}: a client comes again after {clients // cohort} rounds; give fewer")
        return Release(0.0), lambda rounds: -(-rounds * cohort // clients)
    if bands > 1:
        raise UserError(f"privacy.bands={bands}: needs clients in a fixed cycle; choose --fed.sampling cyclic")
    if sampler.law == "everyone" or (sampler.law == "poisson" and sampler.rate == 1):
        return Release(0.0), lambda rounds: rounds
    if sampler.law == "poisson":
        return Release(0.0, sampler.rate, clients, sampler.cohort_size()), lambda rounds: rounds
    raise UserError(
        f"privacy: no accountant for cohorts drawn like this ({sampler.law}); choose --fed.sampling poisson, "
        "everyone or cyclic"
    )
