"""Patient-level differential privacy: what a hospital sends hardly depends on any one of its patients.

Each hospital trains by DP-SGD, see `per_patient`. All that follows works on its noisy gradients, so that the server
needs no trust. A hospital's epsilon composes its own steps alone: hospitals share no patient.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import checks
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.privacy import accounting
from fedjax_mri.fed.privacy.accounting import Release
from fedjax_mri.fed.privacy.canaries import lower_bound
from fedjax_mri.fed.privacy.canary_patients import watch_hospital, with_canary_patients
from fedjax_mri.fed.privacy.contract import Guarantee, check_budget, checked
from fedjax_mri.fed.privacy.per_patient import (
    Watch,
    places_of,
    poisson_patients,
    private_gradient,
    refuse_what_mixes_patients,
)
from fedjax_mri.fed.sampling import Population, Sampler
from fedjax_mri.fed.uplink.contract import Stage, Uplink
from fedjax_mri.fed.uplink.settings import UplinkSettings

MOST_GROUPS = 8  # groups of hospitals that are accounted one by one
NO_MEMBERS = (
    "privacy: runs with privacy of patients cannot be trained together as members of one program, unless each image is "
    "of another patient"
)


@dataclass(frozen=True)
class Patient:
    """Settings of patient-level privacy: DP-SGD in each hospital; `local.batch` patients come to a step on average."""

    epsilon: float = 8.0  # budget of the whole run, of any hospital; 0: none, the run tells what each spends
    delta: float = 1e-5
    noise: float = 0.0  # noise multiplier; 0: the smallest that keeps the budget at every hospital
    clip: float = 1.0  # bound on the norm of a patient's gradient
    unit: Literal["patient", "image"] = "patient"  # "image": each image counts as a patient, where nobody knows better
    views: int = 1  # images of a patient in a step; if he has fewer, copies that are augmented anew
    microbatch: int = 16  # patients whose gradients are held in memory at a time
    audit: int = 0  # canaries at the smallest hospital that show a lower bound on epsilon; 0: none

    def __post_init__(self) -> None:
        check_budget(self.epsilon, self.delta, self.noise)
        checks.positive("privacy.clip", self.clip)
        checks.not_negative("privacy.audit", self.audit)
        for name in ("views", "microbatch"):
            if getattr(self, name) < 1:
                raise UserError(f"privacy.{name}={getattr(self, name)}: must be 1 or more")

    def build(self, uplink: UplinkSettings, local: Local, noise: float, clients: Population) -> tuple[Uplink, Local]:
        """Returns the uplink, whose stages see what is private already, and the local training by DP-SGD."""
        microbatch = min(self.microbatch, places_of(local.batch))
        most, by_patient = self.most_units(clients), self.unit == "patient"
        watch = self.watch(clients, noise)
        batches = poisson_patients(most, by_patient, self.views, microbatch, watch is not None)
        gradient = private_gradient(self.clip, noise, self.views, microbatch, watch)
        guard = Stage("patients", linear=True, check_compatible=refuse_what_mixes_patients)
        guard = with_canary_patients(guard, self.audit) if self.audit else guard
        return uplink.build(first=[guard]), local._replace(gradient=gradient, batches=batches)

    def watch(self, clients: Population, noise: float) -> Watch | None:
        """Returns what scores canaries at the hospital with the fewest patients, who come most often; None without."""
        if not self.audit:
            return None
        counts = np.asarray(self.unit_counts(clients))
        smallest = int(np.argmin(np.where(counts > 0, counts, np.iinfo(np.int32).max)))
        return watch_hospital(smallest, self.audit, self.clip, noise)

    def guarantee(self, sampler: Sampler, population: Population) -> Guarantee:
        """Returns what the run promises the patients of the hospital that spends most, and the mean of hospitals.

        Raises UserError if nobody knows whose each example is, and for a budget that cannot be kept.
        """
        counts = self.unit_counts(population)

        @functools.cache  # not before epsilon is asked for: what members of a group hold is not known before
        def groups() -> list[Group]:
            return groups_of(sampler, population, counts)

        def each(noise: float, rounds: int) -> np.ndarray:
            return np.array([group.epsilon(noise, rounds, self.delta) for group in groups()])

        def mean(rounds: int) -> float:
            return float(np.average(each(noise, rounds), weights=[group.hospitals for group in groups()]))

        rounds = population.rounds
        noise = self.noise or self.smallest_noise(groups(), each, rounds)
        lower = (lambda state: lower_bound(state.stages["patients"], self.delta)) if self.audit else None
        epsilon = lambda rounds: float(each(noise, rounds).max())  # noqa: E731
        found = Guarantee(self.unit, self.epsilon, self.delta, noise, epsilon, lower, mean)
        return checked(found, rounds)

    def unit_counts(self, population: Population) -> np.ndarray:
        """Returns the units int32 [N] of each client. Raises UserError where nobody knows whose the images are."""
        if self.unit == "image":
            return population.sizes
        if population.patients is None and not is_concrete(population.sizes):
            raise UserError(NO_MEMBERS)
        if population.patients is None:
            raise UserError(
                "privacy.unit=patient: the data do not say whose each image is; name the patients (a folder of each, "
                "or a column), or choose --privacy.unit image, which protects one image and not all of a patient's"
            )
        return population.patients

    def most_units(self, clients: Population) -> int:
        """Returns the units of a client, at most. Raises UserError where the compiled program alone knows it."""
        counts = self.unit_counts(clients) if is_concrete(clients.sizes) else clients.patients
        if counts is None:
            raise UserError(NO_MEMBERS)
        return int(np.max(counts))

    def smallest_noise(self, groups: "list[Group]", each: Callable[[float, int], np.ndarray], rounds: int) -> float:
        """Returns the smallest noise multiplier that keeps the budget at every hospital."""
        most, tried = int(np.argmax(each(1.0, rounds))), set[int]()
        while most not in tried:
            tried.add(most)
            noise = accounting.noise_for(self.epsilon, lambda z: groups[most].epsilon(z, rounds, self.delta))  # noqa: B023
            most = int(np.argmax(each(noise, rounds)))
        return noise


class Group(NamedTuple):
    """Hospitals that are accounted as one: as the one of them that spends most would be."""

    hospitals: int
    release: Release  # a local step, without its noise
    steps: np.ndarray  # int [rounds + 1], local steps of one of them after so many rounds, at most

    def epsilon(self, noise: float, rounds: int, delta: float) -> float:
        """Returns the epsilon that each of them has spent after `rounds`, at most."""
        return accounting.epsilon(self.release._replace(noise=noise), int(self.steps[rounds]), delta)


def groups_of(sampler: Sampler, population: Population, patients: np.ndarray) -> list[Group]:
    """Returns hospitals of similar numbers of patients as groups; if there are few numbers, of the same number."""
    batch = population.batch
    steps = participations(sampler, population) * np.asarray(population.steps)  # [rounds + 1, N]
    there = np.flatnonzero(patients > 0)
    counts = np.unique(patients[there])
    groups = []
    for some in np.array_split(counts, min(MOST_GROUPS, len(counts))):
        members = there[(patients[there] >= some[0]) & (patients[there] <= some[-1])]
        fewest = int(some[0])
        release = Release(0.0, min(1.0, batch / fewest), fewest, min(places_of(batch), fewest))
        groups.append(Group(len(members), release, steps[:, members].max(1)))
    return groups


def participations(sampler: Sampler, population: Population) -> np.ndarray:
    """Returns in how many of the first 0, 1, ... rounds each client takes part, int [rounds + 1, N].

    The accountant may use the cohorts that are really drawn, since who takes part is no secret here.
    """
    rounds, clients = population.rounds, len(population.sizes)
    if sampler.law == "everyone":
        return np.repeat(np.arange(rounds + 1)[:, None], clients, 1)

    def one(round: jax.Array) -> jax.Array:
        cohort = sampler.draw(population.key(round), round)
        return jnp.zeros(clients, bool).at[cohort.client].max(cohort.present)

    came = np.asarray(jax.jit(partial(jax.lax.map, one))(jnp.arange(rounds, dtype=jnp.int32)))
    return np.concatenate([np.zeros((1, clients), int), came.cumsum(0)])
