"""What does privacy cost on real brain MR slices, at the level of hospitals and at that of images?

Command: FEDJAX_MRI_BRAIN_TUMOR=PATH fedjax-mri sweep studies/privacy_slices.py
Hardware and time: half an hour of processor time on 2 cores.
Data: real slices; the folders Training/ and Testing/ are below PATH, or below ./brain-tumor-mri. For client-level
privacy 200 hospitals have about ten slices each, of which half take part in a round on average; for patient-level
privacy four hospitals have about 500 each. The files do not say whose a slice is, so that each slice is protected by
itself. The settings of each level, with privacy and without, were chosen on validation images.
"""

import os
import pathlib
from dataclasses import replace
from typing import Any

from fedjax_mri.data.folder import Folder
from fedjax_mri.data.partition import IID
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.privacy.off import Off
from fedjax_mri.fed.privacy.patient import Patient
from fedjax_mri.fed.sampling import Everyone, Poisson
from fedjax_mri.run.config import LocalTraining, load
from fedjax_mri.study.study import Study

private = load(pathlib.Path(__file__).parent.with_name("configs") / "private.py")[""]
ROOT = os.environ.get("FEDJAX_MRI_BRAIN_TUMOR", "brain-tumor-mri")
BUDGETS = (1.0, 3.0, 8.0)


def hospitals(clients: int) -> Folder:
    """Returns the slices, dealt at random to so many hospitals; near-duplicates are on one side of the split."""
    return Folder(ROOT, size=64, split="grouped", partition=IID(clients))


def image_level(optimizer: str, rate: float, privacy: object) -> tuple[object, ...]:
    """Returns large hospitals that all take part."""
    local = LocalTraining(epochs=1, batch=100, optimizer=optimizer, learning_rate=rate)
    return hospitals(4), Everyone(), local, FedAvg(), privacy


def client_level(rate: float, server_rate: float, privacy: object) -> tuple[object, ...]:
    """Returns small hospitals of which half take part on average."""
    local = replace(private.local, learning_rate=rate)
    return hospitals(200), Poisson(rate=0.5), local, FedAvg(server_rate), privacy


LEVELS: dict[str, tuple[Any, ...]] = {
    "client, no privacy": client_level(5e-3, 1.0, Off()),
    **{f"client, epsilon {budget:g}": client_level(1e-2, 1.5, Client(epsilon=budget, clip=2.0)) for budget in BUDGETS},
    "patient, no privacy": image_level("optax.adam", 1e-2, Off()),
    **{
        f"patient, epsilon {budget:g}": image_level("optax.sgd", 2.0, Patient(epsilon=budget, clip=0.5, unit="image"))
        for budget in BUDGETS
    },
}

study = Study(
    base=replace(private, name="what privacy costs on real slices", rounds=20, evaluate_every=5),
    axes={("data", "sampling", "local", "algorithm", "privacy"): LEVELS, "seed": range(3)},
)
