"""Under what conditions a cohort works: how much of its work each client gets done, and when the round is over."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import checks, keys
from fedjax_mri.core.errors import UserError, known
from fedjax_mri.fed.sampling import Cohort, Population
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.world.speeds import ClientSpeeds, Speeds, link_seconds


class Turnout(NamedTuple):
    """What becomes of a round's work."""

    steps: jax.Array  # int32 [K], local steps done; 0: none, or none that reached the server
    share: jax.Array  # float32 [K], what a client's weight is multiplied by
    spent: "Spent"


class Spent(NamedTuple):
    """What a round costs outside of this machine."""

    seconds: jax.Array  # float32 [], on the virtual clock
    up_mb: jax.Array  # float32 [], from clients to the server
    down_mb: jax.Array  # float32 [], from the server to clients
    lost: jax.Array  # float32 [], clients that were asked and sent nothing
    cut: jax.Array  # float32 [], clients that sent unfinished work


# (key, round int32 [], cohort [K], local steps that each would do int32 [K], traffic of one client)
Conditions = Callable[[jax.Array, jax.Array, Cohort, jax.Array, Traffic], Turnout]


@dataclass(frozen=True)
class Ideal:
    """Everyone asked does all the work at once, and nothing is lost on the way."""

    def build(self, population: Population) -> Conditions:
        """Nothing can be wrong."""
        return ideal


def ideal(key: jax.Array, round: jax.Array, cohort: Cohort, steps: jax.Array, traffic: Traffic) -> Turnout:
    """All steps, in no time of their own."""
    return count_turnout(cohort, steps, steps, traffic)


@dataclass(frozen=True)
class Partial:
    """Each round a share of the cohort does a random number of whole epochs, 1 to `local.epochs` - 1, or sends nothing.

    The stragglers of FedProx (Li et al. 2020, arXiv 1812.06127, section 5.2): FedAvg drops them, FedProx keeps their
    work, and a client weighs the same whatever it has done.
    """

    share: float = 0.5  # of the cohort's clients, to the nearest whole number
    late: Literal["keep", "drop"] = "keep"  # what becomes of unfinished work

    def build(self, population: Population) -> Conditions:
        """Raises UserError when the share is none, or one epoch is to be kept in parts."""
        checks.share("conditions.share", self.share)
        if self.late == "keep" and known(population.epochs) and population.epochs < 2:
            raise UserError(f"local.epochs={population.epochs}: partial work keeps whole epochs; choose 2 or more")

        def meet(key: jax.Array, round: jax.Array, cohort: Cohort, steps: jax.Array, traffic: Traffic) -> Turnout:
            who, much = jax.random.split(key)
            slow = random_share(who, steps > 0, self.share)
            epochs = jax.vmap(lambda key: jax.random.randint(key, (), 1, population.epochs, jnp.int32))
            kept = steps // population.epochs * epochs(keys.each(much, cohort.client)) if self.late == "keep" else 0
            return count_turnout(cohort, steps, jnp.where(slow, kept, steps), traffic)

        return meet


@dataclass(frozen=True)
class Stragglers:
    """Clients of unequal speed, a deadline, and failures.

    A round takes as long as its slowest client: the broadcast, its local steps, its update. A server that misses
    somebody waits until the deadline; without one it gives up those who never began at once, and those who failed
    when their update would have come. Where rounds overlap the sampler keeps the clock.
    """

    speeds: ClientSpeeds = field(default_factory=ClientSpeeds)
    jitter: float = 0.0  # sigma of the logarithm of each round's own factor on a client's time for a step
    deadline_s: float = 0.0  # 0: none
    late: Literal["drop", "cut"] = "drop"  # past the deadline: nothing is sent, or what was done in time
    partial: Literal["work", "full"] = "work"  # unfinished work weighs by its share of the steps, or as if it were done
    lost_before: float = 0.0  # probability that a client asked never begins
    lost_after: float = 0.0  # probability that a client does its work and fails before it sends

    def build(self, population: Population) -> Conditions:
        """Raises UserError on numbers that make no sense."""
        self._check()
        speeds = self.speeds.build(len(population.sizes))

        def meet(key: jax.Array, round: jax.Array, cohort: Cohort, steps: jax.Array, traffic: Traffic) -> Turnout:
            chance = jax.vmap(fate)(keys.each(key, cohort.client))
            pace = pace_of(
                jax.tree.map(lambda x: x[cohort.client], speeds), traffic, jnp.exp(self.jitter * chance.normal)
            )
            began = (steps > 0) & (chance.before >= self.lost_before)
            done = jnp.where(began, self._in_time(pace, steps), 0)
            sent = jnp.where(chance.after >= self.lost_after, done, 0)
            ends = jnp.max(jnp.where(done > 0, pace.link + step_seconds(done, pace), 0.0))
            seconds = jnp.where(jnp.any((steps > 0) & (sent == 0)) & (self.deadline_s > 0), self.deadline_s, ends)
            share = ratio_or_zero(sent, steps) if self.partial == "work" else None
            return count_turnout(cohort, steps, sent, traffic, seconds, began, share)

        return meet

    def _in_time(self, pace: "Pace", steps: jax.Array) -> jax.Array:
        """Local steps done of `steps` int32 [K] when the update has to leave; 0 where none is sent."""
        deadline = jnp.where(self.deadline_s > 0, self.deadline_s, jnp.inf)
        if self.late == "drop":
            return jnp.where(pace.link + step_seconds(steps, pace) <= deadline, steps, 0)
        most = jnp.clip(jnp.floor((deadline - pace.link) / pace.step), 0.0, steps.astype(jnp.float32))
        return most.astype(jnp.int32)

    def _check(self) -> None:
        for name in ("lost_before", "lost_after"):
            checks.share(f"conditions.{name}", getattr(self, name))
        for name in ("jitter", "deadline_s"):
            checks.not_negative(f"conditions.{name}", getattr(self, name))


class Pace(NamedTuple):
    """How fast the clients of a cohort are in this round; fields float32 [K]."""

    link: jax.Array  # seconds for broadcast and update
    step: jax.Array  # seconds for a local step


def pace_of(speeds: Speeds, traffic: Traffic, factor: jax.Array) -> Pace:
    """The pace of clients with `speeds` [K]; each step takes `factor` [K] times as long as usual."""
    return Pace(link_seconds(speeds, traffic), factor / speeds.steps_per_s)


def step_seconds(steps: jax.Array, pace: Pace) -> jax.Array:
    """Seconds that `steps` int32 [K] take."""
    return steps.astype(jnp.float32) * pace.step


class Fate(NamedTuple):
    """What chance has in store for a client in a round."""

    before: jax.Array  # float32 [], uniform
    after: jax.Array  # float32 [], uniform
    normal: jax.Array  # float32 []


def fate(key: jax.Array) -> Fate:
    """Three independent draws."""
    before, after, normal = jax.random.split(key, 3)
    return Fate(jax.random.uniform(before), jax.random.uniform(after), jax.random.normal(normal))


def random_share(key: jax.Array, there: jax.Array, share: Any) -> jax.Array:
    """Bool [K]: a random `share` of those `there`, bool [K], to the nearest whole number."""
    lot = jnp.where(there, jax.random.uniform(key, there.shape, jnp.float32), jnp.inf)
    rank = jnp.argsort(jnp.argsort(lot))
    return there & (rank < jnp.round(share * jnp.sum(there).astype(jnp.float32)).astype(rank.dtype))


def ratio_or_zero(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole, int32 [K]; 0 where the whole is."""
    return part / jnp.maximum(whole, 1)


def count_turnout(
    cohort: Cohort,
    asked: jax.Array,
    sent: jax.Array,
    traffic: Traffic,
    seconds: jax.Array | float = 0.0,
    began: jax.Array | None = None,
    share: jax.Array | None = None,
) -> Turnout:
    """The books of a round: of `asked` int32 [K] local steps, those that were `sent`.

    `began` bool [K] got the broadcast: all that were asked, unless it is said. `share` [K] is 1 unless it is said.
    """
    took = jnp.sum(asked > 0 if began is None else began).astype(jnp.float32)
    arrived = jnp.sum(sent > 0).astype(jnp.float32)
    spent = Spent(
        seconds=jnp.where(cohort.seconds > 0, cohort.seconds, seconds).astype(jnp.float32),
        up_mb=arrived * (traffic.up / 1e6),
        down_mb=took * (traffic.down / 1e6),
        lost=jnp.sum((asked > 0) & (sent == 0)).astype(jnp.float32),
        cut=jnp.sum((sent > 0) & (sent < asked)).astype(jnp.float32),
    )
    return Turnout(sent, jnp.ones(asked.shape, jnp.float32) if share is None else share, spent)
