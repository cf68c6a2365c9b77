"""Registered CT and MR slices of real patients: pictures of equal names in root/CT and root/MRI."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import VALIDATION, Batch, ClientData, Federation, Table, Test
from fedjax_mri.data.files import raster
from fedjax_mri.data.files.folders import is_wanted
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.layout import NUMBER
from fedjax_mri.data.resident import Resident, resident
from fedjax_mri.data.scans import ReadSettings, load_images

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
        """Returns the federation of the pairs, with the sides of cases drawn by `seed`.

        Raises UserError on folders that hold no pairs, or too few cases.
        """
        names, of_each, pixels = self._read()
        known = sorted(set(of_each))
        sides = self._sides(known, seed)
        parts = {case: np.flatnonzero(np.asarray(of_each) == case) for case in known}
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
        """Returns one test set of all cases, each a test client."""
        _, of_each, pixels = self._read()
        parts = [np.flatnonzero(np.asarray(of_each) == case) for case in sorted(set(of_each))]
        return {Path(self.root).name: unseen(pixels, parts)}, ()

    def _sides(self, cases: Sequence[str], seed: int) -> dict[str, str]:
        """Returns the side of each case. Raises UserError where none would be left to train."""
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
        """Returns names and cases of the pairs, and their pixels uint8 [n, size, size, 1] by modality."""
        folders = {"ct": Path(self.root).expanduser() / self.ct, "mr": Path(self.root).expanduser() / self.mr}
        found = pair_pictures(folders["ct"], folders["mr"])
        pixels = {modality: stack(list(paths), self.size) for modality, paths in zip(folders, zip(*found.values()))}
        return list(found), cases(list(found)), pixels


def pair_pictures(ct: Path, mr: Path) -> dict[str, tuple[Path, Path]]:
    """Returns each pair's name without its ending -> CT and MR.

    Raises UserError on a missing folder or partner, or two sizes.
    """
    here, there = pictures(ct), pictures(mr)
    for name in sorted(here.keys() ^ there.keys()):
        path, others = (here[name], there) if name in here else (there[name], here)
        like = next((other for other in sorted(others) if other.startswith(name) or name.startswith(other)), "")
        hint = f" ({others[like].name} is of another name: give both the same)" if like else ""
        raise UserError(f"{printable(path)}: has no partner in the other folder{hint}; add, rename or remove it")
    for name in sorted(here):
        (width, height), (mr_width, mr_height) = size(here[name]), size(there[name])
        if (width, height) != (mr_width, mr_height) and width and mr_width:
            raise UserError(
                f"{printable(there[name])}: {mr_width} x {mr_height} pixels, and its CT {width} x {height}: registered "
                "pairs are of one size; replace it, or remove both"
            )
    return {name: (here[name], there[name]) for name in sorted(here)}


def size(path: Path) -> tuple[int, int]:
    """Returns width and height of a picture; 0 and 0 where it is none, which is said when it is read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except OSError:
        return 0, 0


def pictures(folder: Path) -> dict[str, Path]:
    """Returns pictures of a folder by their names without endings.

    Raises UserError where there are none, or two of a name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; data.root must hold a folder of CT and one of MR slices")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if is_wanted(path.name)):
        if path.name.lower().endswith(raster.READER.endings):
            if path.stem in found:
                raise UserError(f"{printable(path)}: {found[path.stem].name} has the same name: remove one of them")
            found[path.stem] = path
    if not found:
        raise UserError(
            f"{folder}: no pictures ({', '.join(raster.READER.endings)}) there; give the folder of the pairs"
        )
    return found


def cases(names: Sequence[str]) -> list[str]:
    """Returns the case of each pair: what stands before the last number of its name, p1 of p1_05; 41 of 41005."""
    return [NUMBER.sub("", name) or name for name in names]


def stack(paths: Sequence[Path], size: int) -> np.ndarray:
    """Returns the pixels of pictures, uint8 [n, size, size, 1]. Raises UserError on a file that is not an image."""
    read = load_images(paths, size, 1, ReadSettings(), {path: path for path in paths})
    for source, reason in read.images.quarantined:
        raise UserError(f"{read.names[source]}: {reason}; replace it, or remove it from both folders")
    return read.images.pixels


def examples(pixels: dict[str, np.ndarray], parts: Sequence[np.ndarray]) -> ClientData:
    """Returns clients whose slices are held as bytes and read as float32 in 0..1."""
    stored = resident({**pixels, "label": np.zeros(len(pixels["ct"]), np.int32)}, parts)

    def read(store: Resident, client: jax.Array, indices: jax.Array) -> Batch:
        batch = stored.read(store, client, indices)
        return {**batch, **{name: batch[name].astype(np.float32) / np.float32(255) for name in ("ct", "mr")}}

    return stored._replace(read=read, fetch=None)


def unseen(pixels: dict[str, np.ndarray], parts: Sequence[np.ndarray]) -> Test:
    """Returns a test set of clients that took no part in training."""
    return Test(examples(pixels, parts), np.full(len(parts), -1, np.int32))
