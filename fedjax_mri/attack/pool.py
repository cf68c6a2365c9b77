"""The patients that an attack is about: those that a run was trained on, and held-out ones of the same hospitals."""

from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import PATIENT, ClientData, Federation, Test
from fedjax_mri.data.precomputed import precomputed
from fedjax_mri.data.resident import example_fields, positions


class Pool(NamedTuple):
    """n images of P patients at N hospitals."""

    fields: dict[str, np.ndarray]  # [n, ...], what the task reads, and "patient" where the data have it
    client: np.ndarray  # int32 [n], hospital
    patient: np.ndarray  # int [n], from 0 to P - 1
    member: np.ndarray  # bool [P], whether the run was trained on the patient
    compared: np.ndarray  # bool [P], whether the patient's hospital has patients of both kinds
    held_out: str  # name of the test set


def gather(federation: Federation, reads: tuple[str, ...]) -> Pool:
    """Returns the patients that `federation` trains on and those of the first test set of its hospitals.

    `reads` are the fields that the task reads. Images of a patient go together where the data have a field "patient";
    else each image is a patient.
    """
    names = (*reads, *([PATIENT] if has_patients(federation) else []))
    title, test = held_out_test(federation)
    (first, mine), (second, other) = (images(data, names) for data in (federation.train, test.data))
    owner = test.owner[other]
    fields = {name: np.concatenate([first[name], second[name][owner >= 0]]) for name in names}
    client = np.concatenate([mine, owner[owner >= 0]])
    inside = np.arange(len(client)) < len(mine)
    patient, one = number_patients(fields.get(PATIENT, np.arange(len(client))), client, inside)
    fields |= {PATIENT: patient.astype(np.int32)} if PATIENT in fields else {}
    member, hospital = inside[one], client[one]
    compared = np.isin(hospital, hospital[member]) & np.isin(hospital, hospital[~member])
    return Pool(fields, client, patient, member, compared, title)


def images(data: ClientData, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns fields [n, ...] of all clients' images, one client after another, and the client int32 [n] of each."""
    kept = precomputed(data, names)
    return {name: kept.store.fields[name] for name in names}, positions(kept.sizes)[0]


def held_out_test(federation: Federation) -> tuple[str, Test]:
    """Returns name and contents of the first test set with patients of the hospitals that train.

    Raises UserError where there is none.
    """
    for name, test in federation.tests.items():
        if (test.owner >= 0).any():
            return name, test
    raise UserError(
        "attack: no test set has patients of the hospitals that train, and others would be told by their hospital; "
        "give a run whose data hold out patients of the same hospitals"
    )


def has_patients(federation: Federation) -> bool:
    """Returns whether examples say which patient they are of."""
    return PATIENT in example_fields(federation.train)


def number_patients(patient: np.ndarray, client: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers [n] from 0 to P - 1 of the patients of n images, and the first image of each [P].

    Patients of two hospitals, or of the two sides, are different ones.
    """
    rows = np.stack([client, inside, patient], 1)
    _, first, numbers = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return numbers.ravel(), first
