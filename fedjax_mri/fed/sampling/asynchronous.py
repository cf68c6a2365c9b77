"""Overlapping rounds: clients train at their own speed, and the server moves whenever enough updates have arrived.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered Asynchronous Aggregation,
AISTATS 2022 (arXiv 2106.06639). The order in which updates arrive does not depend on what clients learn. So all
arrivals are simulated once on the host, and the compiled rounds read their cohorts from the resulting table.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import Seed
from fedjax_mri.fed.sampling.cohort import Cohort, Population, Sampler, cohort_of
from fedjax_mri.fed.world.speeds import ClientSpeeds, link_seconds


@dataclass(frozen=True)
class Asynchronous:
    """Settings of asynchronous rounds: `concurrency` clients train, and the server moves after every `buffer` arrivals.

    A round is one server step. When an update arrives, another client starts to train. A client whose update is in the
    buffer waits until the server step, so that no cohort has it twice.
    """

    buffer: int = 10
    concurrency: int = 100  # clients in training at once; fewer if no other client is idle
    latest: int = 20  # most server steps that an update may be behind; later ones are dropped and not counted
    speeds: ClientSpeeds = field(default_factory=ClientSpeeds)
    jitter: float = 0.0  # sigma of the logarithm of a random factor on the time of each training
    seed: Seed = 0  # of the choice of the next client, and of the jitter

    def build(self, population: Population) -> Sampler:
        """Returns the sampler. Raises UserError if there are too few clients or a number is out of range."""
        for name, least in (("buffer", 1), ("concurrency", 1), ("latest", 0), ("jitter", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise UserError(f"sampling.{name}={getattr(self, name)}: must be {least} or more")
        eligible = int(np.sum(np.asarray(population.sizes) > 0))
        if self.buffer > eligible:
            raise UserError(f"sampling.buffer={self.buffer}: {eligible} clients have examples; choose 1 to {eligible}")
        if self.concurrency > eligible:
            raise UserError(
                f"sampling.concurrency={self.concurrency}: {eligible} clients have examples; choose 1 to {eligible}"
            )
        table = self.table(population)

        def sample(key: jax.Array, round: jax.Array) -> Cohort:
            client, staleness, seconds = (jnp.asarray(column)[round] for column in table)
            return cohort_of(client, staleness=staleness, seconds=seconds)

        return Sampler(sample, "other", self.buffer / len(population.sizes), self.latest)

    def table(self, population: Population) -> "Arrivals":
        """Returns the arrivals of all server steps of a run. They do not change if the run has more rounds."""
        with jax.ensure_compile_time_eval():  # the simulation needs numbers, even while a program is being traced
            speeds = self.speeds.build(len(population.sizes))
            link = np.asarray(link_seconds(speeds, population.traffic()))
        seconds = link + population.steps / np.asarray(speeds.steps_per_s)
        eligible = np.flatnonzero(population.sizes)
        steps = arrivals(self, seconds.astype(np.float64), eligible, population.rounds)
        client, staleness, time = (np.stack(column) for column in zip(*steps))
        return Arrivals(
            client.astype(np.int32), staleness.astype(np.int32), np.diff(time, prepend=0).astype(np.float32)
        )


class Arrivals(NamedTuple):
    """The updates in the buffer at each of R server steps."""

    client: np.ndarray  # int32 [R, K]
    staleness: np.ndarray  # int32 [R, K], server steps since the broadcast each started from
    seconds: np.ndarray  # float32 [R], since the server step before


def arrivals(
    settings: Asynchronous, seconds: np.ndarray, eligible: np.ndarray, rounds: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yields clients int [K], their staleness int [K] and the time in seconds of each server step.

    `seconds` [N] is the time that the training of each client takes, and `eligible` holds the clients with examples.
    """
    rng, idle, training = np.random.default_rng(settings.seed), eligible.tolist(), list[tuple[float, int, int]]()
    now = 0.0
    for version in range(rounds):
        arrived = list[tuple[int, int]]()
        while len(arrived) < settings.buffer:
            while idle and len(training) < settings.concurrency:
                client = pop_random_client(idle, rng)
                end = now + seconds[client] * math.exp(settings.jitter * rng.standard_normal())
                heapq.heappush(training, (end, client, version))
            now, client, start = heapq.heappop(training)
            if version - start <= settings.latest:
                arrived.append((client, version - start))
            else:
                idle.append(client)
        idle += [client for client, _ in arrived]
        clients, staleness = np.array(arrived).T
        yield clients, staleness, now


def pop_random_client(idle: list[int], rng: np.random.Generator) -> int:
    """Removes a random client from the list `idle` and returns it."""
    index = int(rng.integers(len(idle)))
    idle[index], idle[-1] = idle[-1], idle[index]
    return idle.pop()
