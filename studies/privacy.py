"""What does privacy cost, at the level of hospitals and at that of patients (synthetic)?

Command: fedjax-mri sweep studies/privacy.py
Hardware and time: half an hour of processor time on 2 cores.
Data: the phantom (synthetic) of the quick-start at 32 px. For client-level privacy 24,000 patients are at 2,000
hospitals, of which 300 take part in a round on average; for patient-level privacy 12,000 patients are at 20 hospitals,
all of which take part. The settings of each level, with privacy and without, were chosen on validation images.
"""

import pathlib
from dataclasses import replace
from typing import Any

from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.privacy.off import Off
from fedjax_mri.fed.privacy.patient import Patient
from fedjax_mri.fed.sampling import Everyone, Poisson
from fedjax_mri.run.config import LocalTraining, load
from fedjax_mri.study.study import Study

private = load(pathlib.Path(__file__).parent.with_name("configs") / "private.py")[""]
PHANTOM = private.data.source
BUDGETS = (1.0, 3.0, 8.0)


def hospitals(clients: int, patients: int) -> Precomputed:
    """Returns the phantom with so many hospitals of so many patients each."""
    sites = replace(PHANTOM.sites, patients_mean=float(patients), patients_max=patients)
    return Precomputed(replace(PHANTOM, clients=clients, sites=sites))


def patient_level(optimizer: str, rate: float, privacy: object) -> tuple[object, ...]:
    """Large hospitals that all take part."""
    local = LocalTraining(epochs=1, batch=100, optimizer=optimizer, learning_rate=rate)
    return hospitals(20, 600), Everyone(), local, FedAvg(), privacy


SMALL = (hospitals(2000, 12), Poisson(rate=0.15), replace(private.local, learning_rate=1e-2))
LEVELS: dict[str, tuple[Any, ...]] = {
    "client, no privacy": (*SMALL, FedAvg(), Off()),
    **{f"client, epsilon {budget:g}": (*SMALL, FedAvg(1.5), Client(epsilon=budget, clip=2.0)) for budget in BUDGETS},
    "patient, no privacy": patient_level("optax.adam", 1e-2, Off()),
    **{
        f"patient, epsilon {budget:g}": patient_level("optax.sgd", 4.0, Patient(epsilon=budget, clip=0.5))
        for budget in BUDGETS
    },
}

study = Study(
    base=replace(private, name="what privacy costs", rounds=20, evaluate_every=5),
    axes={("data", "sampling", "local", "algorithm", "privacy"): LEVELS, "seed": range(3)},
)
