"""Conditions of a round: how many local steps each client gets done, and how long the round takes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import checks, keys
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.sampling import Cohort, Population
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.world.speeds import ClientSpeeds, Speeds, link_seconds


class Turnout(NamedTuple):
    """The work of a cohort that reaches the server in a round."""

    steps: jax.Array  # int32 [K], local steps whose update reaches the server; 0 if it sends none
    share: jax.Array  # float32 [K], factor on a client's weight
    cost: "RoundCost"


class RoundCost(NamedTuple):
    """The simulated time and traffic of a round, and the clients that failed in it."""

    seconds: jax.Array  # float32 [], on the virtual clock
    up_mb: jax.Array  # float32 [], from clients to the server
    down_mb: jax.Array  # float32 [], from the server to clients
    lost: jax.Array  # float32 [], clients of the cohort that sent no update
    cut: jax.Array  # float32 [], clients that sent unfinished work


# (key, round int32 [], cohort [K], full local steps of each client int32 [K], traffic of one client) -> turnout
Conditions = Callable[[jax.Array, jax.Array, Cohort, jax.Array, Traffic], Turnout]


@dataclass(frozen=True)
class Ideal:
    """Settings of ideal conditions: every client of the cohort finishes its work, and the round takes no time."""

    def build(self, population: Population) -> Conditions:
        """Returns the conditions."""
        return ideal


def ideal(key: jax.Array, round: jax.Array, cohort: Cohort, steps: jax.Array, traffic: Traffic) -> Turnout:
    """Returns the turnout in which all steps are done, in no time."""
    return count_turnout(cohort, steps, steps, traffic)


@dataclass(frozen=True)
class Partial:
    """Settings of partial work: a share of each cohort finishes only 1 to `local.epochs` - 1 epochs, or sends nothing.

    These are the stragglers of FedProx (Li et al. 2020, arXiv 1812.06127, section 5.2): FedAvg drops them, FedProx
    keeps their work. The weight of a client does not depend on the work that it has done. Where `local.steps` ends a
    round within these epochs, unfinished work is all of the round's.
    """

    share: float = 0.5  # of the cohort's clients, to the nearest whole number
    late: Literal["keep", "drop"] = "keep"  # what becomes of unfinished work

    def build(self, population: Population) -> Conditions:
        """Returns the conditions. Raises UserError unless 0 <= share <= 1, and if a single epoch is to be divided."""
        checks.share("conditions.share", self.share)
        if self.late == "keep" and is_concrete(population.epochs) and population.epochs < 2:
            raise UserError(f"local.epochs={population.epochs}: partial work keeps whole epochs; choose 2 or more")

        def turnout(key: jax.Array, round: jax.Array, cohort: Cohort, steps: jax.Array, traffic: Traffic) -> Turnout:
            subset_key, epochs_key = jax.random.split(key)
            slow = random_subset(subset_key, steps > 0, self.share)
            if self.late == "drop":
                return count_turnout(cohort, steps, jnp.where(slow, 0, steps), traffic)
            epochs = jax.vmap(lambda key: jax.random.randint(key, (), 1, population.epochs, jnp.int32))
            drawn = epochs(keys.fold_in_each(epochs_key, cohort.client))
            kept = jnp.asarray(population.epoch_steps)[cohort.client] * drawn
            return count_turnout(cohort, steps, jnp.where(slow, jnp.minimum(kept, steps), steps), traffic)

        return turnout


@dataclass(frozen=True)
class Stragglers:
    """Settings of clients with unequal speeds, of a deadline, and of failures.

    A round takes as long as its slowest client needs for the broadcast, its local steps and its update. If an update is
    missing, the server waits until the deadline. Without a deadline it does not wait for clients that never began, and
    waits for failed ones until their update would have arrived. If rounds overlap, the sampler gives the time instead.
    """

    speeds: ClientSpeeds = field(default_factory=ClientSpeeds)
    jitter: float = 0.0  # sigma of the logarithm of a random factor on a client's step time, drawn in each round
    deadline_s: float = 0.0  # seconds; 0: no deadline
    late: Literal["drop", "cut"] = "drop"  # clients past the deadline send nothing, or the steps done in time
    partial: Literal["work", "full"] = "work"  # unfinished work is weighted by its share of the steps, or fully
    lost_before: float = 0.0  # probability that a client of the cohort never begins
    lost_after: float = 0.0  # probability that a client does its work and then fails to send it

    def build(self, population: Population) -> Conditions:
        """Returns the conditions. Raises UserError on numbers out of range."""
        self._check()
        speeds = self.speeds.build(len(population.sizes))

        def turnout(key: jax.Array, round: jax.Array, cohort: Cohort, steps: jax.Array, traffic: Traffic) -> Turnout:
            draws = jax.vmap(draw_client)(keys.fold_in_each(key, cohort.client))
            cohort_speeds = jax.tree.map(lambda x: x[cohort.client], speeds)
            timing = cohort_timing(cohort_speeds, traffic, jnp.exp(self.jitter * draws.normal))
            began = (steps > 0) & (draws.before >= self.lost_before)
            done = jnp.where(began, self._steps_in_time(timing, steps), 0)
            sent = jnp.where(draws.after >= self.lost_after, done, 0)
            slowest = jnp.max(jnp.where(done > 0, timing.link + step_seconds(done, timing), 0.0))
            seconds = jnp.where(jnp.any((steps > 0) & (sent == 0)) & (self.deadline_s > 0), self.deadline_s, slowest)
            share = ratio_or_zero(sent, steps) if self.partial == "work" else None
            return count_turnout(cohort, steps, sent, traffic, seconds, began, share)

        return turnout

    def _steps_in_time(self, timing: "Timing", steps: jax.Array) -> jax.Array:
        """Returns how many of `steps` int32 [K] each client finishes early enough to send its update in time."""
        deadline = jnp.where(self.deadline_s > 0, self.deadline_s, jnp.inf)
        if self.late == "drop":
            return jnp.where(timing.link + step_seconds(steps, timing) <= deadline, steps, 0)
        finished = jnp.clip(jnp.floor((deadline - timing.link) / timing.step), 0.0, steps.astype(jnp.float32))
        return finished.astype(jnp.int32)

    def _check(self) -> None:
        for name in ("lost_before", "lost_after"):
            checks.share(f"conditions.{name}", getattr(self, name))
        for name in ("jitter", "deadline_s"):
            checks.not_negative(f"conditions.{name}", getattr(self, name))


class Timing(NamedTuple):
    """Seconds that each client of a cohort needs in this round; fields float32 [K]."""

    link: jax.Array  # for broadcast and update together
    step: jax.Array  # for one local step


def cohort_timing(speeds: Speeds, traffic: Traffic, factor: jax.Array) -> Timing:
    """Returns the timing of clients with `speeds` [K], whose steps take `factor` [K] times as long as usual."""
    return Timing(link_seconds(speeds, traffic), factor / speeds.steps_per_s)


def step_seconds(steps: jax.Array, timing: Timing) -> jax.Array:
    """Returns the seconds, float32 [K], that each client needs for `steps` int32 [K]."""
    return steps.astype(jnp.float32) * timing.step


class ClientDraws(NamedTuple):
    """The random numbers of a client in a round."""

    before: jax.Array  # float32 [], uniform: whether it begins
    after: jax.Array  # float32 [], uniform: whether it sends its work
    normal: jax.Array  # float32 [], standard normal: its speed in this round


def draw_client(key: jax.Array) -> ClientDraws:
    """Returns independent random numbers for one client."""
    before, after, normal = jax.random.split(key, 3)
    return ClientDraws(jax.random.uniform(before), jax.random.uniform(after), jax.random.normal(normal))


def random_subset(key: jax.Array, eligible: jax.Array, share: jax.Array | float) -> jax.Array:
    """Returns a random subset, bool [K], with a `share` of the `eligible` bool [K], to the nearest whole number."""
    score = jnp.where(eligible, jax.random.uniform(key, eligible.shape, jnp.float32), jnp.inf)
    rank = jnp.argsort(jnp.argsort(score))
    return eligible & (rank < jnp.round(share * jnp.sum(eligible).astype(jnp.float32)).astype(rank.dtype))


def ratio_or_zero(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Returns part / whole, float32 [K], of int32 [K]; 0 where `whole` is 0."""
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
    """Returns the turnout of a round in which `sent` of `asked` int32 [K] local steps reach the server.

    `began` bool [K] marks the clients that got the broadcast; by default all that were asked. `share` float32 [K] is
    the factor on clients' weights; by default 1.
    """
    receivers = jnp.sum(asked > 0 if began is None else began).astype(jnp.float32)
    senders = jnp.sum(sent > 0).astype(jnp.float32)
    cost = RoundCost(
        seconds=jnp.where(cohort.seconds > 0, cohort.seconds, seconds).astype(jnp.float32),
        up_mb=senders * (traffic.up / 1e6),
        down_mb=receivers * (traffic.down / 1e6),
        lost=jnp.sum((asked > 0) & (sent == 0)).astype(jnp.float32),
        cut=jnp.sum((sent > 0) & (sent < asked)).astype(jnp.float32),
    )
    return Turnout(sent, jnp.ones(asked.shape, jnp.float32) if share is None else share, cost)
