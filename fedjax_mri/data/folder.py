"""Federations from folders of labelled images: root/<split>/<class>/*.png, or root/<class>/*.png without splits."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import duplicates
from fedjax_mri.data.contract import VALIDATION, Federation, Table, Test
from fedjax_mri.data.files import images
from fedjax_mri.data.labelled import SIDE_WORDS, TEST, TRAINING, Labelled, divide, federation
from fedjax_mri.data.partition import Partition, Sizes
from fedjax_mri.data.resident import resident

FOUR_HOSPITALS = Sizes((5000, 6000, 6500, 5401))  # in these proportions, where there are fewer images


@dataclass(frozen=True)
class Folder:
    """Images dealt to simulated hospitals; batches are {"image": uint8 [B, size, size, channels], "label": int32 [B]}.

    Decoded pixels stay in the host's memory, by client; the plan says whether devices hold all of them, a share each,
    or only the cohort's.

    The published split keeps the folders `train` and `test`, and warns of test images that have a twin in training.
    The grouped split pools all images and holds out a share of each class with no duplicate group on both sides. A
    folder `val`, `valid` or `validation` of the published split validates; else a share of the images that train does.
    """

    root: str
    size: int = 96
    channels: int = 1  # 1 grey, 3 RGB
    split: Literal["published", "grouped"] = "published"
    train: str = "Training"  # the published splits
    test: str = "Testing"
    holdout: float = 0.15  # share of the grouped split that tests
    validation: float = 0.1  # share of the training images that validates, where no folder does; 0: none
    partition: Partition = FOUR_HOSPITALS

    def build(self, seed: int) -> Federation:
        """One test client per training client, with the same mix of classes. Raises UserError on unusable folders."""
        found = images.find(self.root)
        files = self._used(found)
        splits = {file.split: self._side(file.split) for file in files}
        classes = tuple(
            sorted({file.label for file in files if self.split == "grouped" or splits[file.split] == TRAINING})
        )
        _check_known(files, classes)

        read = images.read(files, self.size, self.channels)
        labels = _labels(read.files, classes)
        groups = duplicates.group(read.hashes, read.digests)
        sides = None if self.split == "grouped" else np.array([splits[file.split] for file in read.files])
        examples = Labelled({"image": read.pixels, "label": labels}, classes, groups, sides)
        divided = divide(self.root, examples, (self.holdout, self.validation), self.partition, seed)

        learnt, test = np.concatenate([divided.train.all, divided.validation.all]), divided.test.all
        leaks = _leaks(classes, labels[test], *duplicates.leak(groups, read.digests, learnt, test))
        tables = (
            *_quarantine(read),
            _duplicates(groups, read.digests),
            *_disagreements(read.files, labels, groups),
            leaks,
        )
        built = federation(examples, divided, f"{self.split} test", tables)
        said = (*_warnings(found, files, read, leaks), *built.warnings)
        return built._replace(warnings=said, pictures=True)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """All images under the root, whatever their split, as one test set named after it.

        Labels are positions in `classes`. Raises UserError for a class folder that is not among them.
        """
        files = images.find(self.root)
        _check_known(files, classes)
        read = images.read(files, self.size, self.channels)
        labels = _labels(read.files, classes)
        data = resident({"image": read.pixels, "label": labels}, [np.arange(len(labels))])
        return {Path(self.root).expanduser().resolve().name: Test(data, np.array([-1], np.int32))}, _quarantine(read)

    def _used(self, found: list[images.File]) -> list[images.File]:
        """The files that the split consists of."""
        if self.split == "grouped":
            return found
        if self.split != "published" or self.train == self.test:
            raise UserError(
                f"split {self.split!r} of train {self.train!r} and test {self.test!r}: "
                'take "grouped", or "published" with two different folders'
            )
        present = {file.split for file in found}
        for name in (self.train, self.test):
            if name not in present:
                there = ", ".join(sorted(present - {""})) or "class folders only"
                raise UserError(
                    f"{Path(self.root, name)}: no such split, found {there}: set train and test, or split='grouped'"
                )
        return [file for file in found if self._side(file.split)]

    def _side(self, split: str) -> str:
        """The side of the files of a split; "" where they are not used."""
        named = {self.train: TRAINING, self.test: TEST}
        return named.get(split) or (VALIDATION if split.lower() in SIDE_WORDS[VALIDATION] else "")


def _check_known(files: list[images.File], classes: tuple[str, ...]) -> None:
    for file in files:
        if file.label not in classes:
            raise UserError(
                f"{file.path.parent}: unknown class {file.label!r}, training knows {', '.join(classes)}: "
                "rename or remove the folder"
            )


def _labels(files: list[images.File], classes: tuple[str, ...]) -> np.ndarray:
    return np.array([classes.index(file.label) for file in files], np.int32)


def _quarantine(read: images.Images) -> tuple[Table, ...]:
    return (Table("Quarantined files", ("file", "reason"), list(read.quarantined)),) if read.quarantined else ()


def _duplicates(groups: np.ndarray, digests: np.ndarray) -> Table:
    """A table of how many images have duplicates, and in how large groups."""
    size = np.bincount(groups)
    copies = np.unique(digests, return_counts=True)[1]
    largest = ", ".join(str(n) for n in np.sort(size[size > 1])[::-1][:5])
    rows = [
        ("images", len(groups)),
        ("groups of duplicates", int((size > 1).sum())),
        ("images in these groups", int(size[size > 1].sum())),
        ("images with an exact copy", int(copies[copies > 1].sum())),
        ("largest groups", largest or "none"),
    ]
    return Table("Duplicates", ("figure", "value"), rows, "Exact by pixels, near by a perceptual hash within 4 bits.")


def _disagreements(files: list[images.File], labels: np.ndarray, groups: np.ndarray) -> tuple[Table, ...]:
    """Groups of duplicates whose members carry different labels."""
    held = np.unique(np.stack([groups, labels]), axis=1)[0]  # once per label in it
    several = np.flatnonzero(np.bincount(held) > 1)
    members = [[files[i] for i in np.flatnonzero(groups == group)] for group in several]
    rows = [
        (len(group), ", ".join(sorted({file.label for file in group})), images.printable(group[0].path))
        for group in members
    ]
    return (Table("Duplicates with different labels", ("images", "classes", "first"), rows),) if rows else ()


def _leaks(classes: tuple[str, ...], labels: np.ndarray, copied: np.ndarray, near: np.ndarray) -> Table:
    """Test images with a twin in training, by class: labels, copied and near are [n] over the test set."""
    rows = [
        (name, int(own.sum()), int(copied[own].sum()), int(near[own].sum()))
        for name, own in ((name, labels == label) for label, name in enumerate(classes))
    ]
    total = ("all", len(labels), int(copied.sum()), int(near.sum()))
    return Table("Test images with a twin in training", ("class", "test images", "exact", "near"), [*rows, total])


def _warnings(found: list[images.File], files: list[images.File], read: images.Images, leaks: Table) -> Iterator[str]:
    unused = sorted({file.split or "no split" for file in found} - {file.split for file in files})
    if unused:
        yield f"unused images: {len(found) - len(files)}, in {', '.join(unused)}"
    if read.quarantined:
        path, reason = read.quarantined[0]
        yield f"{len(read.quarantined)} of {len(files)} files could not be read, such as {path}: {reason}"
    _, tested, exact, near = leaks.rows[-1]
    if exact + near:
        yield (
            f"{exact + near} of {tested} test images have a twin in training ({exact} exact, {near} near): "
            "figures on this split flatter; take split='grouped' for honest ones"
        )
