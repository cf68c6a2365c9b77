"""Local differential privacy: each client adds noise itself, and trusts neither the server nor the other clients.

What the server sees of a client in a round is a Gaussian mechanism on that client's data alone. Neighbours are an
update and zeros in its place. Nothing hides who took part, so that sampling does not help, and the noise of all clients
adds up.
"""

from dataclasses import dataclass
from functools import partial

import jax

from fedjax_mri.core import checks
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.privacy import accounting
from fedjax_mri.fed.privacy.canaries import lower_bound
from fedjax_mri.fed.privacy.canary_updates import audit_updates
from fedjax_mri.fed.privacy.contract import Guarantee, check_budget, checked
from fedjax_mri.fed.privacy.mechanism import normal_like, refuse_what_is_not_clipped
from fedjax_mri.fed.sampling import Population, Sampler
from fedjax_mri.fed.uplink.contract import Notes, Sender, Stage, State, Update, Uplink
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import clip
from fedjax_mri.fed.uplink.weigh import uniformly


@dataclass(frozen=True)
class LocalSettings:
    """Settings of local privacy: each client's update is clipped and noised before it leaves the client."""

    epsilon: float = 8.0  # budget of the whole run; 0: none, the run tells what it spends, of each client
    delta: float = 1e-5
    noise: float = 0.0  # noise multiplier; 0: the smallest that keeps the budget
    clip: float = 1.0  # bound on the norm of an update
    audit: int = 0  # canaries that show a lower bound on epsilon; 0: none

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta, self.noise)
        checks.positive("privacy.clip", self.clip)
        checks.not_negative("privacy.audit", self.audit)

    def build(self, uplink: UplinkSettings, local: Local, noise: float, clients: Population) -> tuple[Uplink, Local]:
        """Returns the uplink with clip and noise before its stages and one weight for all; any reduction may follow."""
        release = [clip(self.clip), noisy(self.clip * noise)]
        audit = [audit_updates(release, self.audit, self.clip, noise)] if self.audit else []
        return uplink.build(first=release, last=audit)._replace(weigh=uniformly), local

    def guarantee(self, sampler: Sampler, population: Population) -> Guarantee:
        """Returns what the run promises a client that takes part in every round: others are promised more.

        Raises UserError for a budget that cannot be kept.
        """

        def spent(noise: float, rounds: int) -> float:
            return accounting.epsilon(accounting.Release(noise), rounds, self.delta)

        rounds = population.rounds
        noise = self.noise or accounting.noise_for(self.epsilon, lambda noise: spent(noise, rounds))
        lower = (lambda state: lower_bound(state.stages["audit"], self.delta)) if self.audit else None
        unit = "client (against the server)"
        return checked(Guarantee(unit, self.epsilon, self.delta, noise, partial(spent, noise), lower=lower), rounds)


def noisy(deviation: float) -> Stage:
    """Returns the stage that adds normal noise of this standard deviation to each value of an update."""

    def client(update: Update, state: State, sender: Sender) -> tuple[Update, State, Notes]:
        noise = normal_like(sender.key, update.delta)
        return update._replace(delta=jax.tree.map(lambda d, n: d + deviation * n, update.delta, noise)), state, {}

    return Stage("noise", client=client, linear=True, check_compatible=refuse_what_is_not_clipped)
