"""Registered CT and MR slices of real patients: root/CT/<case><SSS>.png and root/MRI/<case><SSS>.png."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import VALIDATION, Batch, ClientData, Federation, Table, Test
from fedjax_mri.data.files import images
from fedjax_mri.data.resident import Resident, resident

SLICE = 3  # digits at the end of a name that count slices; what stands before them is the case
CLASSES = ("slice",)
SIDES = ("training", "test", VALIDATION)


@dataclass(frozen=True)
class Pairs:
    """A hospital for each case that trains, a client for each that tests or validates; no case is on two sides.

    Batches are {"ct", "mr": float32 [B, size, size, 1] in 0..1, "label": int32 [B], all 0}. The CT is a picture of a
    display window, not Hounsfield units.
    """

    root: str
    size: int = 256
    holdout: int = 2  # cases that test
    validation: int = 1  # cases that validate
    ct: str = "CT"  # folders
    mr: str = "MRI"

    def build(self, seed: int) -> Federation:
        """Sides of cases are drawn by `seed`. Raises UserError on folders that hold no pairs, or too few cases."""
        names, cases, pixels = self._read()
        known = sorted(set(cases))
        sides = self._sides(known, seed)
        parts = {case: np.flatnonzero(np.asarray(cases) == case) for case in known}
        train, test, validation = ([parts[case] for case in known if sides[case] == side] for side in SIDES)
        rows = [(case, len(parts[case]), sides[case]) for case in known]
        return Federation(
            examples(pixels, train),
            {"unseen cases": unseen(pixels, test), **({VALIDATION: unseen(pixels, validation)} if validation else {})},
            CLASSES,
            np.array([[len(part)] for part in train], np.int32),
            tables=(Table("Cases", ("case", "slices", "side"), rows, f"{len(names)} pairs of {self.root}"),),
            images=("ct", "mr"),
            modalities=("ct", "mr"),
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """One test set of all cases, each a test client."""
        _, cases, pixels = self._read()
        parts = [np.flatnonzero(np.asarray(cases) == case) for case in sorted(set(cases))]
        return {Path(self.root).name: unseen(pixels, parts)}, ()

    def _sides(self, cases: Sequence[str], seed: int) -> dict[str, str]:
        """The side of each case. Raises UserError where none would be left to train."""
        count, held = len(cases), self.holdout + self.validation
        if not (self.holdout >= 1 and self.validation >= 0 and held < count):
            raise UserError(
                f"data.holdout={self.holdout}, data.validation={self.validation}: there are {count} cases; let 1 or "
                f"more test, 0 or more validate, and at most {count - 1} do either"
            )
        sides = np.repeat(SIDES, [count - held, self.holdout, self.validation])
        drawn = np.random.default_rng(seed).permutation(cases)  # those that test come first
        return dict(zip(drawn.tolist(), np.roll(sides, held - count).tolist()))

    def _read(self) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
        """Names and cases of the pairs, and their pixels uint8 [n, size, size, 1] by modality."""
        folders = {"ct": Path(self.root).expanduser() / self.ct, "mr": Path(self.root).expanduser() / self.mr}
        names = paired(folders["ct"], folders["mr"])
        return names, [Path(name).stem[:-SLICE] for name in names], {
            modality: stack([folder / name for name in names], self.size) for modality, folder in folders.items()
        }  # fmt: skip


def paired(ct: Path, mr: Path) -> list[str]:
    """Names that both folders have. Raises UserError where a folder is missing, or a file without its partner."""
    for folder in (ct, mr):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; data.root must hold a folder of CT and one of MR slices")
    here, there = ({path.name for path in folder.glob("*.png")} for folder in (ct, mr))
    for name in sorted(here ^ there):
        raise UserError(f"{(ct if name in here else mr) / name}: has no partner in the other folder; add or remove it")
    if not here:
        raise UserError(f"{ct}: no PNG files there; give the folder that holds the pairs")
    return sorted(here)


def stack(paths: Sequence[Path], size: int) -> np.ndarray:
    """Pixels uint8 [n, size, size, 1]. Raises UserError on a file that is not an image."""
    read = images.read([images.File(path, "", CLASSES[0]) for path in paths], size, 1)
    for name, reason in read.quarantined:
        raise UserError(f"{name}: {reason}; replace it, or remove it from both folders")
    return read.pixels


def examples(pixels: dict[str, np.ndarray], parts: Sequence[np.ndarray]) -> ClientData:
    """Clients whose slices are held as bytes and read as float32 in 0..1."""
    stored = resident({**pixels, "label": np.zeros(len(pixels["ct"]), np.int32)}, parts)

    def read(store: Resident, client: jax.Array, indices: jax.Array) -> Batch:
        batch = stored.read(store, client, indices)
        return {**batch, **{name: batch[name].astype(np.float32) / np.float32(255) for name in ("ct", "mr")}}

    return stored._replace(read=read, fetch=None)


def unseen(pixels: dict[str, np.ndarray], parts: Sequence[np.ndarray]) -> Test:
    """A test set of clients that took no part in training."""
    return Test(examples(pixels, parts), np.full(len(parts), -1, np.int32))
