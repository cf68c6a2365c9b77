"""Cohorts drawn from all clients: uniformly, by size, independently, or in a fixed order."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.client.shuffle import shuffled
from fedjax_mri.fed.sampling.cohort import Cohort, Draw, Population, Sampler, checked_size, cohort_of

OVERFLOW = 1e-9  # probability that a Poisson cohort has more clients than places


@dataclass(frozen=True)
class Uniform:
    """Settings of uniform sampling: `cohort` draws a round, all clients with equal probability."""

    cohort: int = 32
    replace: bool = False  # a client may be drawn again: it trains once, and its weight counts as often

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError if the cohort is empty or, without replacement, too large."""
        number = len(population.sizes)
        cohort_size = checked_size(self.cohort, max(number, self.cohort) if self.replace else number)

        def sample(key: jax.Array, round: jax.Array) -> Cohort:
            if self.replace:
                return with_repeats(jax.random.randint(key, (cohort_size,), 0, number, jnp.int32))
            first = jnp.arange(cohort_size, dtype=jnp.int32)  # the rest of the shuffle is never computed
            return cohort_of(shuffled(key, first, jnp.int32(number)))

        return Sampler(sample, "replacement" if self.replace else "fixed", cohort_size / number)


@dataclass(frozen=True)
class Everyone:
    """Settings of full participation: all clients in each round."""

    without: int = -1  # a client to leave out; -1: none

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError if the client to leave out does not exist."""
        number = len(population.sizes)
        if is_concrete(self.without) and not -1 <= self.without < number:
            raise UserError(f"sampling.without={self.without}: choose a client from 0 to {number - 1}, or -1 for none")

        def sample(key: jax.Array, round: jax.Array) -> Cohort:
            everyone = jnp.arange(number, dtype=jnp.int32)
            return cohort_of(everyone, everyone != self.without)

        known = is_concrete(self.without)  # members of a group differ in it, and it may be nobody
        if known and self.without < 0:
            return Sampler(sample, "everyone", 1.0)
        others = (jnp.arange(number, dtype=jnp.int32) != self.without).astype(jnp.float32)
        return Sampler(sample, "all but one", (number - 1) / number if known else 1.0, participation=others)


@dataclass(frozen=True)
class Weighted:
    """Settings of sampling by size: `cohort` draws in each round, with probabilities proportional to examples.

    With replacement, and `uplink.weight` uniform, the mean update is unbiased (FedProx's second scheme: Li et al. 2020,
    arXiv 1812.06127). Without replacement the cohort is the K largest of log(size) + Gumbel noise (Kool et al. 2019,
    arXiv 1903.06059). Clients without examples are never drawn.
    """

    cohort: int = 32
    replace: bool = False  # a client may be drawn again: it trains once, and its weight counts as often

    def build(self, population: Population) -> Sampler:
        """Returns the sampler.

        Raises UserError if no client has an example, or the cohort is empty or larger than the population.
        """
        sizes = jnp.asarray(population.sizes, jnp.int32)
        if is_concrete(sizes) and not np.any(population.sizes):
            raise UserError(f"sampling: none of the {len(sizes)} clients has an example to be weighted by")
        cohort_size = checked_size(self.cohort, max(len(sizes), self.cohort) if self.replace else len(sizes))
        if not self.replace:
            return Sampler(_largest_first(sizes, cohort_size), "other", cohort_size / len(sizes))
        shares = sizes.astype(jnp.float32) / jnp.sum(sizes).astype(jnp.float32)
        draw = _by_example(sizes, cohort_size)
        return Sampler(draw, "other", cohort_size / len(sizes), participation=cohort_size * shares)


def _by_example(sizes: jax.Array, cohort_size: int) -> Draw:
    """Returns a draw of the owners of uniformly drawn examples, in whole numbers, so that nothing is rounded."""
    ends = jnp.cumsum(sizes, dtype=jnp.int32)

    def sample(key: jax.Array, round: jax.Array) -> Cohort:
        example = jax.random.randint(key, (cohort_size,), 0, ends[-1], jnp.int32)
        return with_repeats(jnp.searchsorted(ends, example, side="right").astype(jnp.int32))

    return sample


def _largest_first(sizes: jax.Array, cohort_size: int) -> Draw:
    weights = jnp.log(jnp.maximum(sizes, 1).astype(jnp.float32))

    def sample(key: jax.Array, round: jax.Array) -> Cohort:
        score = jnp.where(sizes > 0, weights + jax.random.gumbel(key, sizes.shape, jnp.float32), -jnp.inf)
        best, client = jax.lax.top_k(score, cohort_size)
        return cohort_of(client, best > -jnp.inf)

    return sample


@dataclass(frozen=True)
class Poisson:
    """Settings of Poisson sampling: each client takes part with probability `rate`, independently of the others.

    The cohort has the fewest places K for which more than K clients are drawn less than once in 10^9 rounds, by the
    exact binomial tail. In such a round a random part of them is left out.
    """

    rate: float = 0.05

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError unless 0 < rate <= 1."""
        if not 0 < self.rate <= 1:
            raise UserError(f"sampling.rate={self.rate}: must be a probability above 0")
        number = len(population.sizes)
        cohort_size = poisson_places(number, self.rate)

        def sample(key: jax.Array, round: jax.Array) -> Cohort:
            drawn = jax.random.uniform(key, (number,), jnp.float32)
            joined = (drawn < self.rate) & (drawn <= -jax.lax.top_k(-drawn, cohort_size)[0][-1])
            client = jnp.nonzero(joined, size=cohort_size, fill_value=0)[0].astype(jnp.int32)
            return cohort_of(client, jnp.arange(cohort_size) < jnp.sum(joined))

        return Sampler(sample, "poisson", self.rate)


def poisson_places(number: int, rate: float) -> int:
    """Returns the smallest K with P(Binomial(number, rate) > K) < OVERFLOW."""
    if rate == 1:
        return number
    count = np.arange(number + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(count[1:]))])
    log_choose = log_factorial[-1] - log_factorial - log_factorial[::-1]
    probability = np.exp(log_choose + count * np.log(rate) + (number - count) * np.log1p(-rate))
    at_least = np.cumsum(probability[::-1])[::-1]  # [number + 1], summed from the small end of the tail
    return max(1, int(np.sum(at_least[1:] >= OVERFLOW)))


@dataclass(frozen=True)
class Cyclic:
    """Settings of cyclic sampling: `cohort` clients in a fixed order; each round continues where the last one ended."""

    cohort: int = 32

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError if the cohort is empty or larger than the population."""
        number = len(population.sizes)
        place = np.arange(checked_size(self.cohort, number), dtype=np.int32)

        def sample(key: jax.Array, round: jax.Array) -> Cohort:
            return cohort_of((round % number * self.cohort + place) % number)

        return Sampler(sample, "cyclic", self.cohort / number)


def with_repeats(drawn: jax.Array) -> Cohort:
    """Returns the cohort of draws int32 [K] with repeats: a client is present once, and counts as often as drawn."""
    ordered = jnp.sort(drawn)
    first, end = (jnp.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    return cohort_of(ordered, first == jnp.arange(len(drawn)), (end - first).astype(jnp.float32))
