"""Overlapping rounds: clients come and go at their own pace, and the server moves whenever enough have arrived.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered Asynchronous Aggregation,
AISTATS 2022 (arXiv 2106.06639). When and in which order clients arrive does not depend on what they learn, so the
queue of events runs once on the host, and the compiled rounds read their cohorts from its table.
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
from fedjax_mri.fed.sampling.cohort import Cohort, Population, Sampler, cohort_of
from fedjax_mri.fed.world.speeds import ClientSpeeds, link_seconds


@dataclass(frozen=True)
class Asynchronous:
    """The server moves after every `buffer` arrivals, while `concurrency` clients train; whoever arrives is replaced.

    A round is a server step. A client whose update is in the buffer rests until that step: no cohort has it twice.
    """

    buffer: int = 10
    concurrency: int = 100  # clients in training at once; fewer where all the others rest
    latest: int = 20  # server steps; an update that comes later is thrown away, and nothing counts it
    speeds: ClientSpeeds = field(default_factory=ClientSpeeds)
    jitter: float = 0.0  # sigma of the logarithm of each training's own factor on its time
    seed: int = 0  # of who is asked next, and of the jitter

    def build(self, population: Population) -> Sampler:
        """Raises UserError when there are too few clients, or a number makes no sense."""
        for name, least in (("buffer", 1), ("concurrency", 1), ("latest", 0), ("jitter", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise UserError(f"sampling.{name}={getattr(self, name)}: must be {least} or more")
        able = int(np.sum(np.asarray(population.sizes) > 0))
        if self.buffer > able:
            raise UserError(f"sampling.buffer={self.buffer}: {able} clients have examples; choose 1 to {able}")
        if self.concurrency > able:
            raise UserError(
                f"sampling.concurrency={self.concurrency}: {able} clients have examples; choose 1 to {able}"
            )
        table = self.table(population)

        def sample(key: jax.Array, round: jax.Array) -> Cohort:
            client, staleness, seconds = (jnp.asarray(column)[round] for column in table)
            return cohort_of(client, staleness=staleness, seconds=seconds)

        return Sampler(sample, "other", self.buffer / len(population.sizes), self.latest)

    def table(self, population: Population) -> "Arrivals":
        """All server steps of a run; more rounds leave the first ones as they are."""
        with jax.ensure_compile_time_eval():  # the queue needs numbers, also where a program is being traced
            speeds = self.speeds.build(len(population.sizes))
            link = np.asarray(link_seconds(speeds, population.traffic()))
        seconds = link + population.steps / np.asarray(speeds.steps_per_s)
        able = np.flatnonzero(population.sizes)
        steps = arrivals(self, seconds.astype(np.float64), able, population.rounds)
        client, staleness, now = (np.stack(column) for column in zip(*steps))
        return Arrivals(client.astype(np.int32), staleness.astype(np.int32), np.diff(now, prepend=0).astype(np.float32))


class Arrivals(NamedTuple):
    """Whose updates make the server move, R times."""

    client: np.ndarray  # int32 [R, K]
    staleness: np.ndarray  # int32 [R, K], server steps since the broadcast each started from
    seconds: np.ndarray  # float32 [R], since the step before


def arrivals(
    rules: Asynchronous, seconds: np.ndarray, able: np.ndarray, rounds: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Clients [K], the staleness of each [K], and the time, of each server step; a training takes `seconds` [N]."""
    rng, idle, training = np.random.default_rng(rules.seed), able.tolist(), list[tuple[float, int, int]]()
    now = 0.0
    for version in range(rounds):
        arrived = list[tuple[int, int]]()
        while len(arrived) < rules.buffer:
            while idle and len(training) < rules.concurrency:
                client = pop_random_client(idle, rng)
                end = now + seconds[client] * math.exp(rules.jitter * rng.standard_normal())
                heapq.heappush(training, (end, client, version))
            now, client, start = heapq.heappop(training)
            if version - start <= rules.latest:
                arrived.append((client, version - start))
            else:
                idle.append(client)
        idle += [client for client, _ in arrived]
        clients, staleness = np.array(arrived).T
        yield clients, staleness, now


def pop_random_client(idle: list[int], rng: np.random.Generator) -> int:
    """One of the idle, who is so no more."""
    place = int(rng.integers(len(idle)))
    idle[place], idle[-1] = idle[-1], idle[place]
    return idle.pop()
