"""The patients that an attack is about: those that a run was trained on, and held-out ones of the same hospitals."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.data.precomputed import precomputed
from fedjax_mri.data.resident import positions, specimen


class Pool(NamedTuple):
    """n images of P patients at N hospitals."""

    fields: dict[str, np.ndarray]  # [n, ...], what the task reads
    client: np.ndarray  # int32 [n], hospital
    patient: np.ndarray  # int [n], from 0 to P - 1
    member: np.ndarray  # bool [P], whether the run was trained on the patient
    compared: np.ndarray  # bool [P], whether the patient's hospital has patients of both kinds
    held_out: str  # name of the test set


def gather(federation: Federation, reads: tuple[str, ...]) -> Pool:
    """Returns the patients that `federation` trains on and those of the first test set of its hospitals.

    `reads` are the fields that the task reads. Images of a patient go together where the data have a field "patient";
    else each image is a patient. Raises UserError where no test set belongs to the training hospitals.
    """
    name, test = held_out_test(federation)
    names = (*reads, *(["patient"] if has_patients(federation) else []))
    train, held = precomputed(federation.train, names), precomputed(test.data, names)
    owner = test.owner[positions(held.sizes)[0]]
    fields = [{key: data.store.fields[key][: data.sizes.sum()] for key in names} for data in (train, held)]
    both = {key: np.concatenate([fields[0][key], fields[1][key][owner >= 0]]) for key in names}
    client = np.concatenate([positions(train.sizes)[0], owner[owner >= 0]])
    inside = np.arange(len(client)) < train.sizes.sum()
    patient, first = numbered(both.pop("patient", np.arange(len(client))), client, inside)
    member, hospital = inside[first], client[first]
    compared = np.isin(hospital, hospital[member]) & np.isin(hospital, hospital[~member])
    return Pool(both, client, patient, member, compared, name)


def held_out_test(federation: Federation) -> tuple[str, Test]:
    """Returns name and contents of the first test set with patients of the hospitals that train."""
    for name, test in federation.tests.items():
        if (test.owner >= 0).any():
            return name, test
    raise UserError(
        "attack --membership: no test set has patients of the hospitals that train, so that members would be told by "
        "their hospital; give a source with held-out patients of the same hospitals"
    )


def has_patients(federation: Federation) -> bool:
    """Returns whether examples say which patient they are of."""
    store, zero = specimen(federation.train), jnp.int32(0)
    fields = jax.eval_shape(lambda store: federation.train.read(store, zero, jnp.zeros(1, jnp.int32)), store)
    return "patient" in fields


def numbered(patient: np.ndarray, client: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers [n] from 0 to P - 1 of the patients of n images, and the first image of each [P].

    Patients of two hospitals, or of the two sides, are different ones.
    """
    rows = np.stack([client, inside, patient], 1)
    _, first, numbers = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return numbers.ravel(), first
