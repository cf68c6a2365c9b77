"""Cohorts from those who are there: by time of day, by chance that lasts, or by a recorded trace."""

import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import checks
from fedjax_mri.core.errors import UserError, brief
from fedjax_mri.fed.sampling.cohort import Cohort, Population, Sampler, checked_size, cohort_of


def cohort_of_available(cohort: int, number: int, there: Callable[[jax.Array], jax.Array]) -> Sampler:
    """`cohort` of the clients that are `there` (round -> bool [number]), drawn evenly; all of them if they are fewer.

    Raises UserError when the cohort is empty or larger than the population.
    """
    places = checked_size(cohort, number)

    def sample(key: jax.Array, round: jax.Array) -> Cohort:
        lot = jnp.where(there(round), jax.random.uniform(key, (number,), jnp.float32), -1.0)
        best, client = jax.lax.top_k(lot, places)
        return cohort_of(client, best >= 0)

    return Sampler(sample, "other", places / number)


@dataclass(frozen=True)
class Diurnal:
    """`cohort` clients of those awake: each is there for a share of its day, which begins when its own phase says."""

    cohort: int = 32
    day: float = 24.0  # rounds
    awake: float = 0.5  # share of the day that a client is there
    spread: float = 1.0  # share of the day over which clients' phases lie; 0: all wake up at once
    seed: int = 0  # of the phases

    def build(self, population: Population) -> Sampler:
        """Raises UserError on a day without length, or shares that are none."""
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
    """`cohort` clients of those there, who come and go: each is a two-state Markov chain in its stationary law.

    Stays have a geometric length; in the long run a client is there present / (present + absent) of the time.
    """

    cohort: int = 32
    present: float = 10.0  # mean rounds a client stays
    absent: float = 10.0  # mean rounds it stays away
    seed: int = 0  # of the coming and going

    def build(self, population: Population) -> Sampler:
        """Raises UserError when a mean stay is below one round."""
        for name in ("present", "absent"):
            if not 1 <= getattr(self, name) < math.inf:
                raise UserError(f"sampling.{name}={getattr(self, name)}: must be a mean of 1 round or more")
        trace = self.trace(population.rounds, len(population.sizes))
        return cohort_of_available(self.cohort, trace.shape[1], trace_row(trace))

    def trace(self, rounds: int, number: int) -> np.ndarray:
        """Who is there, bool [rounds, number]; more rounds leave the first ones as they are."""
        rng, leave, come = np.random.default_rng(self.seed), 1 / self.present, 1 / self.absent
        trace = np.empty((rounds, number), bool)
        trace[0] = rng.random(number) < come / (come + leave)
        for round in range(1, rounds):
            moves = rng.random(number) < np.where(trace[round - 1], leave, come)
            trace[round] = trace[round - 1] ^ moves
        return trace


@dataclass(frozen=True)
class Trace:
    """`cohort` clients of those that a file says are there.

    A .npy array [T, N] or a .csv of T lines with N columns, without a header, of 0 and 1: a line a round, a column a
    client. After the last line it begins again.
    """

    cohort: int = 32
    path: str = ""

    def build(self, population: Population) -> Sampler:
        """Raises UserError when the file is missing, damaged or of another number of clients."""
        trace, number = read_trace(self.path), len(population.sizes)
        if trace.shape[1] != number:
            raise UserError(f"{self.path}: has {trace.shape[1]} columns, there are {number} clients; give one each")
        return cohort_of_available(self.cohort, number, trace_row(trace))


def trace_row(trace: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """Round -> its row of a trace bool [T, N], over and over."""
    return lambda round: jnp.asarray(trace)[round % len(trace)]


def read_trace(path: str) -> np.ndarray:
    """A trace bool [T, N] from a .npy or .csv file. Raises UserError when it is none."""
    if not path:
        raise UserError("sampling.path: give a .npy or .csv file of who is there, --sampling.path FILE")
    try:
        if pathlib.Path(path).suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
            values = np.array([line.split(",") for line in lines if line.strip()], float)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a trace: {brief(error)}") from None
    if values.ndim != 2 or not values.size or not np.isin(values, (0, 1)).all():
        raise UserError(f"{path}: must be a table of 0 and 1, a line a round and a column a client")
    return values.astype(bool)
