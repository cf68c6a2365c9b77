"""Federations from folders of labelled images: root/<split>/<class>/*.png, or root/<class>/*.png without splits."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedjax_mri.data import duplicates, images
from fedjax_mri.data.client_data import ClientData, Federation, Table, Test
from fedjax_mri.data.partition import Partition, Sizes, follow, holdout
from fedjax_mri.data.resident import resident
from fedjax_mri.errors import UserError


@dataclass(frozen=True)
class Folder:
    """Images dealt to simulated hospitals; batches are {"image": uint8 [B, size, size, channels], "label": int32 [B]}.

    The published split keeps the folders `train` and `test`, and warns of test images that have a twin in training.
    The grouped split pools all images and holds out a share of each class with no duplicate group on both sides.
    """

    root: str
    size: int = 96
    channels: int = 1  # 1 grey, 3 RGB
    split: Literal["published", "grouped"] = "published"
    train: str = "Training"  # the published splits
    test: str = "Testing"
    holdout: float = 0.15  # share of the grouped split that tests
    partition: Partition = Sizes((5000, 6000, 6500, 5401))

    def build(self, seed: int) -> Federation:
        """One test client per training client, with the same mix of classes. Raises UserError on unusable folders."""
        rng = np.random.default_rng(seed)
        read = images.read(self._files(), self.size, self.channels)
        classes = tuple(sorted({file.label for file in read.files}))
        labels = _labels(read.files, classes)
        groups = duplicates.group(read.hashes, read.digests)
        train, test = self._split(read.files, labels, groups, rng)
        _check_classes(self.root, classes, labels[train], labels[test])

        parts = [train[part] for part in self.partition.split(labels[train], groups[train], rng)]
        counts = np.stack([np.bincount(labels[part], minlength=len(classes)) for part in parts]).astype(np.int32)
        test_parts = [test[part] for part in follow(labels[test], counts, rng)]

        arrays = {"image": read.pixels, "label": labels}
        tests = {f"{self.split} test": Test(resident(arrays, test_parts), np.arange(len(parts), dtype=np.int32))}
        copied, near = duplicates.leak(groups, read.digests, train, test)
        tables = (
            *_quarantine(read),
            _duplicates(read, groups),
            *_disagreements(read, labels, classes, groups),
            _leaks(self.split, classes, labels[test], copied, near),
            _partition(classes, counts, test_parts),
        )
        warnings = _warnings(read, self.split, copied, near, counts)
        return Federation(resident(arrays, parts), tests, classes, counts, tables, warnings)

    def evaluation(self, root: str, classes: tuple[str, ...]) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """All images under another root as one test set named after it, labelled by the classes of a saved run.

        Raises UserError for a class folder that the run does not know.
        """
        files = images.find(root)
        _check_known(files, classes)
        read = images.read(files, self.size, self.channels)
        labels = _labels(read.files, classes)
        data = resident({"image": read.pixels, "label": labels}, [np.arange(len(labels))])
        return {Path(root).resolve().name: Test(data, np.array([-1], np.int32))}, _quarantine(read)

    def _files(self) -> list[images.File]:
        files = images.find(self.root)
        if self.split == "grouped":
            return files
        files = [file for file in files if file.split in (self.train, self.test)]
        present = {file.split for file in images.find(self.root)}
        for name in (self.train, self.test):
            if name not in present:
                there = ", ".join(sorted(present - {""})) or "class folders only"
                raise UserError(f'{Path(self.root, name)}: no such split, there are {there}: set train and test, '
                                'or split="grouped"')
        return files
