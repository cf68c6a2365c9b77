"""Federations from folders of labelled images: root/<split>/<class>/*, root/<class>/<patient>/*, and others alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import labelled, labelled_images, layout
from fedjax_mri.data.contract import Federation, Table, Test
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.labelled import TEST, TRAINING, Labelled
from fedjax_mri.data.layout import PathLabels, Splits
from fedjax_mri.data.partition import Partition, Sizes
from fedjax_mri.data.scans import LoadedImages, ReadSettings, load_images

FOUR_HOSPITALS = Sizes((5000, 6000, 6500, 5401))  # in these proportions, where there are fewer images


@dataclass(frozen=True)
class Folder:
    """Images dealt to simulated hospitals; batches are {"image": uint8 [B, size, size, channels], "label": int32 [B]}.

    Files are pictures, DICOM series or volumes; of volumes each axial slice is an image. Decoded pixels stay in the
    host's memory, by client, or in a file; the plan says whether devices hold all of them, a share each, or only the
    cohort's.

    The published split keeps the folders `train` and `test`, and warns of test images that have a twin in training.
    The grouped split pools all images and holds out a share of each class with no duplicate group on both sides. A
    folder `val`, `valid` or `validation` of the published split validates; else a share of the images that train does.
    Images of a patient, which is a folder below the class or what DICOM says, stay together like duplicates.
    """

    root: str
    size: int = 96
    channels: int = 1  # 1 grey, 3 RGB
    split: Literal["published", "grouped"] = "published"
    train: str = "Training"  # the published splits; "train" and "test" are known too
    test: str = "Testing"
    layout: str = "split/class"  # levels of folders: split, site, class, patient
    sites: Literal["partition", "header"] = "partition"  # hospitals, where no folder is one: dealt, or as DICOM says
    holdout: float = 0.15  # share of the grouped split that tests
    validation: float = 0.1  # share of the training images that validates, where no folder does; 0: none
    partition: Partition = FOUR_HOSPITALS
    reading: ReadSettings = ReadSettings()  # how DICOM, NIfTI and others are read; pictures are as they are

    def __post_init__(self) -> None:
        layout.levels_of(self.layout)
        check_sites(self.sites)

    def build(self, seed: int) -> Federation:
        """Returns the federation, with one test client per training client, which has the same mix of classes.

        Raises UserError on unusable folders.
        """
        splits = Splits(self.train, self.test)
        found, lines = layout.find(self.root, self.layout, splits)
        used = self._used(found, splits)
        classes = tuple(
            sorted({at.label for at in used.values() if self.split == "grouped" or splits.side(at.split) == TRAINING})
        )
        check_known(used, classes)
        read, examples = self._read(used, classes, splits)
        unused = sorted(at.split or "no split" for at in set(found.values()) - set(used.values()))
        if len(used) < len(found):
            lines.append(f"unused images: {len(found) - len(used)}, in {', '.join(dict.fromkeys(unused))}")
        tested = self.holdout if self.split == "grouped" else 0.0
        shares, test = (tested, self.validation), f"{self.split} test"
        window = self.reading.window
        honest = "" if self.split == "grouped" else "; give --data.split grouped for honest ones"
        return labelled_images.federation(
            self.root, read, examples, shares, self.partition, seed, test, window, lines, honest
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns all images under the root, whatever their split, as one test set named after it.

        Labels are positions in `classes`. Raises UserError for a class folder that is not among them.
        """
        splits = Splits(self.train, self.test)
        found, _ = layout.find(self.root, self.layout, splits, classes)
        check_known(found, classes)
        read, examples = self._read(found, classes, None)
        name = Path(self.root).expanduser().resolve().name
        return {name: labelled.one_test(examples)}, labelled_images.quarantine_table(read)

    def _used(self, found: Mapping[Path, PathLabels], splits: Splits) -> dict[Path, PathLabels]:
        """Returns the files that the split consists of."""
        if self.split == "grouped":
            return dict(found)
        if self.split != "published" or self.train == self.test:
            raise UserError(
                f"split {self.split!r} of train {self.train!r} and test {self.test!r}: "
                'take "grouped", or "published" with two different folders'
            )
        present = {at.split for at in found.values()}
        for name, usual, side in ((self.train, Folder.train, TRAINING), (self.test, Folder.test, TEST)):
            if side not in map(splits.side, present) or (name != usual and name not in present):
                there = ", ".join(sorted(present - {""})) or "class folders only"
                raise UserError(
                    f"{Path(self.root, name)}: no such split, found {there}: set --data.train and --data.test, "
                    "or give --data.split grouped"
                )
        return {path: at for path, at in found.items() if splits.side(at.split)}

    def _read(
        self, used: Mapping[Path, PathLabels], classes: tuple[str, ...], splits: Splits | None
    ) -> tuple[LoadedImages, Labelled]:
        """Returns the images of files, and the same as examples; without `splits` they belong to no subset."""
        read = load_images(list(used), self.size, self.channels, self.reading, used)
        places = [used[paths[0]] for paths in read.files]
        subsets = None if splits is None or self.split == "grouped" else [splits.side(at.split) for at in places]
        sites = [at.site for at in places] if "site" in self.layout.split("/") else None
        if sites is None and self.sites == "header":
            sites = read.images.sites.tolist()
        patients = [patient_name(at) for at in places]
        labels, remedy = [at.label for at in places], "give --data.sites partition to deal them"
        return read, labelled_images.examples(self.root, read, classes, labels, subsets, sites, patients, remedy)


def patient_name(at: PathLabels) -> str:
    """Returns the name of the patient of a folder, the same in each split.

    It has the site and the class, as p1 of one site or class need not be p1 of another.
    """
    return "/".join(filter(None, (at.site, at.label, at.patient))) if at.patient else ""


def check_sites(sites: str) -> None:
    """Raises UserError on another way to find hospitals than the two that there are."""
    if sites not in ("partition", "header"):
        raise UserError(f"data.sites={sites}: give --data.sites partition or header")


def check_known(found: Mapping[Path, PathLabels], classes: tuple[str, ...]) -> None:
    """Raises UserError on a class folder that is not among the classes."""
    for path, at in found.items():
        if at.label not in classes:
            raise UserError(
                f"{printable(path.parent)}: unknown class {at.label!r}, training knows {', '.join(classes)}: "
                "rename or remove the folder"
            )
