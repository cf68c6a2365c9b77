"""CT and MR of the same patients with a label, listed in a table: what the diagnosis by both learns from."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import labelled, labelled_images, resident
from fedjax_mri.data.contract import Batch, ClientData, Federation, Table, Test
from fedjax_mri.data.decoding import Images
from fedjax_mri.data.image_table import SITE_REMEDY, Row, folder_of, locate_files, rows_of
from fedjax_mri.data.labelled import TEST, Labelled
from fedjax_mri.data.partition import Partition, Sizes
from fedjax_mri.data.scans import BLANK, LoadedImages, ReadSettings, evenly, files_below, load_images

MODALITIES = ("ct", "mr")
SAME = 0.02  # share by which the extents of a registered CT and MR may differ


@dataclass(frozen=True)
class LabelledPairs:
    """Registered slices of CT and MR; batches are {"ct", "mr": float32 [B, size, size, 1], "label", "has" [B, 2]}.

    A row of the table has the CT and the MR of a patient, each a picture, a volume or the folder of a DICOM series, and
    the label; volumes of one row have equally many slices. A patient may lack one of both: the cell is empty, and
    "has" says so. CT is in HU, or in 0..1 where all of it are pictures; MR is in 0..1.
    """

    table: str  # path of the table, CSV or TSV
    root: str = ""  # folder of the images; "": that of the table
    ct: str = "ct"  # names of columns
    mr: str = "mr"
    label: str = "label"
    patient: str = ""  # "": each row is one
    site: str = ""  # "": a partition deals the patients to hospitals
    split: str = ""  # of "train", "val" and "test"; "": shares are held out
    size: int = 128
    holdout: float = 0.15  # share that tests where there is no column of splits
    validation: float = 0.1  # share of the training patients that validates where no split does; 0: none
    partition: Partition = Sizes((1, 1, 1, 1))
    reading: ReadSettings = ReadSettings()

    def build(self, seed: int) -> Federation:
        """Returns the federation of hospitals by site, or by the partition.

        Raises UserError on a bad table, naming the column or the row.
        """
        pairs = self._pairs(None)
        shares = (self.holdout, self.validation)
        divided = labelled.divide(self.table, pairs.examples, shares, self.partition, seed)
        tables = (*labelled_images.quarantine_table(pairs.read), pair_table(pairs.examples))
        built = labelled.federation(pairs.examples, divided, TEST, tables)
        return built._replace(
            train=as_batches(built.train, pairs.in_hu),
            tests={name: one._replace(data=as_batches(one.data, pairs.in_hu)) for name, one in built.tests.items()},
            warnings=(*pairs.lines, *labelled_images.file_warnings(pairs.read), *built.warnings),
            images=MODALITIES,
            image=(self.size, self.size, 1),
            modalities=MODALITIES,
            window=self.reading.window if pairs.in_hu else None,
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns all pairs as one test set. Raises UserError on a label that is not among the `classes` of a model."""
        pairs = self._pairs(classes)
        test = labelled.one_test(pairs.examples)
        data = as_batches(test.data, pairs.in_hu)
        return {Path(self.table).stem: test._replace(data=data)}, labelled_images.quarantine_table(pairs.read)

    def _pairs(self, classes: tuple[str, ...] | None) -> "Pairs":
        """Returns the pairs of all rows with a label, which must be of the `classes` that are known, if any are."""
        columns = (self.ct, self.mr, self.label, *filter(None, (self.patient, self.site, self.split)))
        rows = [row for row in rows_of(self.table, columns) if row[self.label].strip()]
        known = classes or tuple(sorted({row[self.label].strip() for row in rows}))
        root = folder_of(self.table, self.root)
        files, modality = self._files(rows, root)
        read = load_images(list(files), self.size, 1, replace(self.reading, slices=0), files, modality, blank=True)
        of_file = [(files[paths[0]], modality[paths[0]]) for paths in read.files]
        found, lines = pairs_of_rows(self.table, rows, [row[self.ct] or row[self.mr] for row in rows], of_file, read)
        found = select_pairs(found, read.images.pixels, self.reading.slices)
        examples = self._examples([rows[one.row] for one in found], found, known, read)
        return Pairs(read, examples, in_hu(self.table, read, of_file), lines)

    def _files(self, rows: Sequence[Row], root: Path) -> tuple[dict[Path, int], dict[Path, str]]:
        """Returns the row and the modality of each file."""
        row_of: dict[Path, int] = {}
        modality_of: dict[Path, str] = {}
        for modality, column in zip(MODALITIES, (self.ct, self.mr)):
            some = [(number, row[column].strip()) for number, row in enumerate(rows) if row[column].strip()]
            for (number, name), path in zip(some, locate_files(self.table, root, [name for _, name in some])):
                for file in files_below(path):
                    if file in row_of:
                        raise UserError(f"{self.table}: {file} is there twice, for {name}: give each image one place")
                    row_of[file], modality_of[file] = number, modality
        return row_of, modality_of

    def _examples(
        self, rows: Sequence[Row], found: Sequence["Pair"], classes: tuple[str, ...], read: LoadedImages
    ) -> Labelled:
        """Returns pairs as examples; those of a patient stay together."""
        labelled.check_classes(self.table, [row[self.label].strip() for row in rows], classes)
        labels = np.array([classes.index(row[self.label].strip()) for row in rows], np.int32)
        patients = [
            (row[self.patient].strip() if self.patient else "") or f"row {one.row}" for row, one in zip(rows, found)
        ]
        names = [row[self.ct] or row[self.mr] for row in rows]
        splits = [row[self.split] for row in rows] if self.split else []
        subsets = np.array(labelled.parse_subsets(self.table, splits, names)) if self.split else None
        sites = np.array([row[self.site].strip() for row in rows]) if self.site else None
        if sites is not None and "" in sites:
            missing = names[sites.tolist().index("")]
            raise UserError(f"{self.table}: the row of {missing} has no {self.site!r}: {SITE_REMEDY}")
        labelled.check_patients(self.table, np.array(patients), {"site": sites, "split": subsets})
        images = {
            name: images_at(read.images.pixels, [one[place] for one in found]) for place, name in enumerate(MODALITIES)
        }
        has = np.array([[one.ct is not None, one.mr is not None] for one in found], np.float32)
        groups = np.unique(patients, return_inverse=True)[1]
        return Labelled({**images, "label": labels, "has": has}, classes, groups, subsets, sites, patients=True)


class Pair(NamedTuple):
    """The places of the slices of one pair among all images; None for a modality that the patient lacks."""

    ct: int | None
    mr: int | None
    row: int  # of the table


class Pairs(NamedTuple):
    """What a table of pairs gives."""

    read: LoadedImages
    examples: Labelled
    in_hu: bool  # whether CT is
    lines: list[str]  # on rows that are left out


def pairs_of_rows(
    table: str, rows: Sequence[Row], names: Sequence[str], of_file: Sequence[tuple[int, str]], read: LoadedImages
) -> tuple[list[Pair], list[str]]:
    """Returns the pairs of all rows, and lines on rows that are left out.

    A row is left out where an image of it is missing or does not fit. Raises UserError where no row is left.
    """
    sources: dict[tuple[int, str], list[int]] = {}
    for source, key in enumerate(of_file):
        sources.setdefault(key, []).append(source)
    places: dict[int, list[int]] = {source: [] for source in range(len(of_file))}
    for place, source in enumerate(read.images.source.tolist()):
        places[source].append(place)
    pairs: list[Pair] = []
    lines: list[str] = []
    for row, name in enumerate(names):
        of_each = {modality: sources[row, modality] for modality in MODALITIES if (row, modality) in sources}
        slices = {modality: [p for s in several for p in places[s]] for modality, several in of_each.items()}
        if why := misfit(of_each, slices, read.images):
            lines.append(f"row {row + 1} of the table ({name.strip()}) is left out: {why}")
            continue
        ct, mr = (slices.get(modality, [None] * max(map(len, slices.values()))) for modality in MODALITIES)
        pairs += [Pair(*both, row) for both in zip(ct, mr)]
    if not pairs:
        raise UserError(f"{table}: no row has images that fit: {lines[0] if lines else 'no rows'}")
    return pairs, lines


def misfit(sources: Mapping[str, list[int]], slices: Mapping[str, list[int]], images: Images) -> str:
    """Returns why the images of a row are no pair, "" where they are.

    `sources` and `slices` are the row's, by modality.
    """
    if not sources or 0 in map(len, slices.values()):
        reasons = dict(images.quarantined)
        lost = {name.upper(): reasons.get(several[0], "") for name, several in sources.items() if not slices[name]}
        why = "".join(f" ({reason})" for reason in list(lost.values())[:1] if reason)
        return f"its {' and '.join(lost)} cannot be read{why}" if lost else "it has no images"
    for modality, several in sources.items():
        if len(several) > 1 and any(images.kinds[several]):
            return f"{len(several)} scans of {modality.upper()}; name the folder or the file of one"
    if len({len(own) for own in slices.values()}) > 1:
        return ", ".join(f"{len(own)} slices of {modality.upper()}" for modality, own in slices.items())
    extents = [images.extents[several[0]] for several in sources.values()]
    known = all(extent.any() for extent in extents)
    if known and not np.allclose(extents[0], extents[-1], rtol=SAME):
        each = (" x ".join(f"{mm:.0f}" for mm in extent) for extent in extents)
        return "CT of {} mm and MR of {} mm; register them".format(*each)
    return ""


def select_pairs(pairs: Sequence[Pair], pixels: np.ndarray, count: int) -> list[Pair]:
    """Returns the pairs that show something; at most `count` of a row, evenly spaced, where that is not 0."""
    by_row: dict[int, list[Pair]] = {}
    for pair in pairs:
        if any(place is not None and pixels[place].std() >= BLANK for place in pair[:2]):
            by_row.setdefault(pair.row, []).append(pair)
    return [own[at] for own in by_row.values() for at in evenly(len(own), count)]


def images_at(pixels: np.ndarray, places: Sequence[int | None]) -> np.ndarray:
    """Returns the images at some places, zeros for None."""
    rows = np.array([-1 if place is None else place for place in places])
    return np.where((rows >= 0).reshape(-1, *[1] * (pixels.ndim - 1)), pixels[rows], 0).astype(pixels.dtype)


def in_hu(table: str, read: LoadedImages, of_file: Sequence[tuple[int, str]]) -> bool:
    """Returns whether the CT are scans, in HU, and not pictures. Raises UserError where some are of each kind."""
    sources = np.unique(read.images.source).tolist()  # those that gave images
    kinds = {str(read.images.kinds[source]) for source in sources if of_file[source][1] == "ct"}
    if len(kinds) > 1:
        raise UserError(f"{table}: some CT are scans and some pictures: give all in HU, or pictures alone")
    return kinds == {"ct"}


def pair_table(examples: Labelled) -> Table:
    """Returns a table of how many slices have both modalities, or one."""
    has = examples.arrays["has"] > 0
    kinds = {"CT and MR": has.all(1), "CT only": has[:, 0] & ~has[:, 1], "MR only": ~has[:, 0] & has[:, 1]}
    return Table("Pairs", ("modalities", "slices"), [(name, int(own.sum())) for name, own in kinds.items()])


def as_batches(data: ClientData, hounsfield: bool) -> ClientData:
    """Returns client data whose slices, held as int16, are read as float32: CT in HU or in 0..1, MR in 0..1."""
    return data._replace(read=reader(hounsfield), fetch=None)


@functools.cache  # one function for all that are read alike, so that they share a program
def reader(hounsfield: bool) -> Callable[..., Batch]:
    """Returns the `read` of pairs that are held as int16."""
    white = jnp.float32(255)

    def read(store: resident.Resident, client: jax.Array, indices: jax.Array) -> Batch:
        batch = resident.read(store, client, indices)
        ct, mr = (batch[name].astype(jnp.float32) for name in MODALITIES)
        return {**batch, "ct": ct if hounsfield else ct / white, "mr": mr / white}

    return read
