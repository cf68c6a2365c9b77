"""CT and MR of different patients from two folders of any files: what unpaired translation learns from."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import labelled, labelled_images, layout
from fedjax_mri.data.contract import UNPAIRED, VALIDATION, Batch, ClientData, Federation, Table, Test
from fedjax_mri.data.folder import check_sites
from fedjax_mri.data.labelled import TEST, ClientSplit, Labelled
from fedjax_mri.data.partition import Partition, Sizes
from fedjax_mri.data.resident import Resident, resident
from fedjax_mri.data.resident import read as read_resident
from fedjax_mri.data.scans import LoadedImages, ReadSettings, load_images

MODALITIES = ("ct", "mr")
CLASSES = ("slice",)


@dataclass(frozen=True)
class UnpairedFolders:
    """Slices of CT and of MR, cut axially from volumes; batches are {"ct", "mr": float32 [B, size, size, 1], ...}.

    CT is in HU, or in 0..1 where all of it are pictures; then the task needs the window None. MR is in 0..1. A folder
    below `ct` or `mr` is a patient, and so is whom a DICOM file names; a patient is on one side and at one hospital.
    An epoch of a hospital shows each slice of the modality of which it has more. Test sets have no truth to compare
    with: of their figures only those of cycles and of distributions are known.
    """

    root: str
    ct: str = "ct"  # folders
    mr: str = "mr"
    size: int = 128
    sites: Literal["partition", "header"] = "header"  # hospitals as DICOM says, or dealt
    holdout: float = 0.2  # share of the slices of each modality that test, by patients
    validation: float = 0.1  # share of the others that validates
    partition: Partition = Sizes((1, 1, 1, 1))
    reading: ReadSettings = ReadSettings()

    def __post_init__(self) -> None:
        check_sites(self.sites)

    def build(self, seed: int) -> Federation:
        """Returns the federation of hospitals by the institutions of the files.

        Raises UserError on folders without images of both modalities.
        """
        read, examples, lines = self._read()
        divided = labelled.divide(self.root, examples, (self.holdout, self.validation), self.partition, seed)
        pixels, in_hu = read.images.pixels, is_in_hu(self.root, read, examples)
        tested = {TEST: with_both(examples, divided.test), VALIDATION: with_both(examples, divided.validation)}
        counts = labelled.count(examples, divided.train.places)
        train = clients(pixels, examples, divided.train, in_hu)
        return Federation(
            train,
            {
                name: Test(clients(pixels, examples, part, in_hu, (UNPAIRED,)), part.owner)
                for name, part in tested.items()
                if part.places
            },
            CLASSES,
            train.sizes[:, None],
            tables=(
                *labelled_images.quarantine_table(read),
                labelled_images.duplicate_table(read, examples),
                site_table(divided.train, counts),
            ),
            warnings=(*lines, *labelled_images.file_warnings(read), *idle(counts)),
            images=MODALITIES,
            image=(self.size, self.size, 1),
            modalities=MODALITIES,
            window=self.reading.window if in_hu else None,
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns one test set of all slices, of a site that took no part."""
        read, examples, _ = self._read()
        part = ClientSplit([""], np.array([-1], np.int32), [np.arange(len(examples.labels))])
        data = clients(read.images.pixels, examples, part, is_in_hu(self.root, read, examples), (UNPAIRED,))
        return {Path(self.root).name: Test(data, part.owner)}, labelled_images.quarantine_table(read)

    def _read(self) -> tuple[LoadedImages, Labelled, list[str]]:
        """Returns the slices, the same as examples with the modality as class, and lines on what is odd."""
        folders = {modality: str(Path(self.root) / name) for modality, name in (("ct", self.ct), ("mr", self.mr))}
        lines: list[str] = []
        patients: dict[Path, tuple[str, str]] = {}
        for modality, folder in folders.items():
            found, odd = layout.files_of_patients(folder)
            lines += odd
            patients |= {path: (modality, patient) for path, patient in found.items()}
        read = load_images(
            list(patients),
            self.size,
            1,
            self.reading,
            patients,
            {path: modality for path, (modality, _) in patients.items()},
        )
        of_each = [patients[paths[0]] for paths in read.files]
        sites = read.images.sites.tolist() if self.sites == "header" and any(read.images.sites) else None
        labels, names = [modality for modality, _ in of_each], [patient for _, patient in of_each]
        remedy = "give --data.sites partition to deal them"
        examples = labelled_images.examples(self.root, read, MODALITIES, labels, None, sites, names, remedy)
        return read, examples, lines


def is_in_hu(name: str, read: LoadedImages, examples: Labelled) -> bool:
    """Returns whether the CT are scans, in HU, and not pictures.

    Raises UserError where some are of each kind, or where there is an MR among them.
    """
    kinds = set(read.images.kinds[read.images.source[examples.labels == 0]].tolist())
    if len(kinds) > 1 or "mr" in kinds:
        said = ", ".join(sorted(kind or "pictures" for kind in kinds))
        raise UserError(f"{name}: the folder of CT holds {said}: give CT in HU, or pictures alone")
    return kinds == {"ct"}


def with_both(examples: Labelled, part: ClientSplit) -> ClientSplit:
    """Returns the clients of a part that have both modalities."""
    both = [k for k, places in enumerate(part.places) if len(set(examples.labels[places].tolist())) == 2]
    return ClientSplit([part.names[k] for k in both], part.owner[both], [part.places[k] for k in both])


def clients(
    pixels: np.ndarray, examples: Labelled, part: ClientSplit, in_hu: bool, marks: Sequence[str] = ()
) -> ClientData:
    """Returns client data of unequal numbers of CT and MR; a client that lacks one of them has no examples."""
    stores, sizes = [], []
    for label in range(len(MODALITIES)):
        places = [own[examples.labels[own] == label] for own in part.places]
        held = resident({"x": pixels}, places) if sum(map(len, places)) else None
        if held is None:
            raise UserError(f"no {MODALITIES[label].upper()} is left to train on: add some, or lower data.holdout")
        stores.append(held.store)
        sizes.append(held.sizes)
    size = np.where(np.minimum(*sizes) > 0, np.maximum(*sizes), 0).astype(np.int32)
    return ClientData(size, tuple(stores), reader(in_hu, tuple(marks)))


@functools.cache  # one function for all that are read alike, so that they share a program
def reader(in_hu: bool, marks: tuple[str, ...]) -> Callable[..., Batch]:
    """Returns the `read` of stores of CT and MR.

    Index i has CT i and an MR half the hospital away, each from the start again where there are no more. A batch has a
    field of zeros for each of `marks`.
    """

    def slices(store: Resident, client: jax.Array, indices: jax.Array) -> jax.Array:
        return read_resident(store, client, indices % jnp.maximum(store.size[client], 1))["x"].astype(jnp.float32)

    def read(store: tuple[Resident, Resident], client: jax.Array, indices: jax.Array) -> Batch:
        ct, mr = jax.tree.map(jnp.asarray, store)
        shown = jnp.float32(255)
        batch = {
            "ct": slices(ct, client, indices) / (1 if in_hu else shown),
            "mr": slices(mr, client, indices + mr.size[client] // 2) / shown,
            "label": jnp.zeros(indices.shape, jnp.int32),
        }
        return batch | {mark: jnp.zeros(indices.shape, jnp.float32) for mark in marks}

    return read


def site_table(part: ClientSplit, counts: np.ndarray) -> Table:
    """Returns a table of the slices of each hospital that train, counts [N, 2] of CT and MR."""
    rows = [(name, int(ct), int(mr)) for name, (ct, mr) in zip(part.names, counts)]
    return Table("Hospitals", ("hospital", "CT slices", "MR slices"), rows)


def idle(counts: np.ndarray) -> list[str]:
    """Returns a line on hospitals that lack a modality and train nothing, counts [N, 2]."""
    single = int((counts.min(1) == 0).sum())
    return [f"{single} of {len(counts)} hospitals lack CT or MR and train nothing"] * bool(single)
