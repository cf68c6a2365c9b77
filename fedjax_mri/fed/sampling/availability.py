"""Cohorts of available clients. Availability follows the time of day, a Markov chain, or a recorded trace."""

import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import checks
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.core.fields import Seed
from fedjax_mri.fed.sampling.cohort import Cohort, Population, Sampler, checked_size, cohort_of


def cohort_of_available(cohort: int, number: int, available: Callable[[jax.Array], jax.Array]) -> Sampler:
    """Returns a sampler that draws `cohort` available clients uniformly, or all of them if there are fewer.

    `number` is the number of clients, and `available` maps a round to bool [number]. Raises UserError if the cohort is
    empty or larger than the population.
    """
    places = checked_size(cohort, number)

    def sample(key: jax.Array, round: jax.Array) -> Cohort:
        score = jnp.where(available(round), jax.random.uniform(key, (number,), jnp.float32), -1.0)
        best, client = jax.lax.top_k(score, places)
        return cohort_of(client, best >= 0)

    return Sampler(sample, "other", places / number)


@dataclass(frozen=True)
class Diurnal:
    """Settings of availability by time of day: each client is available for a share of its own day."""

    cohort: int = 32
    day: float = 24.0  # rounds
    awake: float = 0.5  # share of the day that a client is available
    spread: float = 1.0  # share of the day over which clients' phases are spread; 0: all have the same phase
    seed: Seed = 0  # of the phases

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError unless the day is positive and the shares are from 0 to 1."""
        checks.positive("sampling.day", self.day)
        for name in ("awake", "spread"):
            checks.share(f"sampling.{name}", getattr(self, name))
        number = len(population.sizes)
        phase = self.spread * jax.random.uniform(jax.random.key(self.seed), (number,), jnp.float32)
        return cohort_of_available(
            self.cohort, number, lambda round: (round.astype(jnp.float32) / self.day + phase) % 1 < self.awake
        )


@dataclass(frozen=True)
class Markov:
    """Settings of availability by chance: each client is a two-state Markov chain that starts in its stationary law.

    The lengths of stays are geometric. In the long run a client is available present / (present + absent) of the time.
    """

    cohort: int = 32
    present: float = 10.0  # mean number of rounds that a client stays available
    absent: float = 10.0  # mean number of rounds that it stays away
    seed: Seed = 0  # of the Markov chains

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError if a mean stay is below one round."""
        for name in ("present", "absent"):
            if not 1 <= getattr(self, name) < math.inf:
                raise UserError(f"sampling.{name}={getattr(self, name)}: must be a mean of 1 round or more")
        trace = self.trace(population.rounds, len(population.sizes))
        return cohort_of_available(self.cohort, trace.shape[1], trace_row(trace))

    def trace(self, rounds: int, number: int) -> np.ndarray:
        """Returns which clients are available, bool [rounds, number]. More rounds do not change the first ones."""
        rng, leave, come = np.random.default_rng(self.seed), 1 / self.present, 1 / self.absent
        trace = np.empty((rounds, number), bool)
        trace[0] = rng.random(number) < come / (come + leave)
        for round in range(1, rounds):
            changes = rng.random(number) < np.where(trace[round - 1], leave, come)
            trace[round] = trace[round - 1] ^ changes
        return trace


@dataclass(frozen=True)
class Trace:
    """Settings of availability by a file, which is a table of 0 and 1 with a row for each round.

    It is a .npy array [T, N] or a .csv file of T lines with N columns and no header; each column is a client. After the
    last row it starts again from the first.
    """

    cohort: int = 32
    path: str = ""

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError if the file is missing, damaged or for another number of clients."""
        trace, number = read_trace(self.path), len(population.sizes)
        if trace.shape[1] != number:
            raise UserError(f"{self.path}: has {trace.shape[1]} columns, there are {number} clients; give one each")
        return cohort_of_available(self.cohort, number, trace_row(trace))


def trace_row(trace: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from a round to its row of a trace bool [T, N], which is repeated after T rounds."""
    return lambda round: jnp.asarray(trace)[round % len(trace)]


def read_trace(path: str) -> np.ndarray:
    """Returns a trace bool [T, N] from a .npy or .csv file. Raises UserError if the file does not hold one."""
    if not path:
        raise UserError("sampling.path: give a .npy or .csv file of who is there, --sampling.path FILE")
    try:
        if pathlib.Path(path).suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
            values = np.array([line.split(",") for line in lines if line.strip()], float)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a trace: {short_message(error)}") from None
    if values.ndim != 2 or not values.size or not np.isin(values, (0, 1)).all():
        raise UserError(f"{path}: must be a table of 0 and 1, a line a round and a column a client")
    return values.astype(bool)
