"""Federations from a table of image files, CSV or TSV: path, label, and perhaps patient, site and split of each."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data import labelled, labelled_images
from fedjax_mri.data.contract import Federation, Table, Test
from fedjax_mri.data.files import folders
from fedjax_mri.data.labelled import TEST, Labelled
from fedjax_mri.data.partition import Partition, Sizes
from fedjax_mri.data.scans import LoadedImages, ReadSettings, load_images

Row = Mapping[str, str]  # column -> value

SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # first bytes of .xlsx and .ods, and of .xls
SITE_REMEDY = "name them, or leave out --data.site and a partition deals them"
NOTHING = ("nan", "NaN", "NA", "N/A", "null", "NULL")  # what programs write into empty cells


@dataclass(frozen=True)
class ImageTable:
    """Images that a table lists, a row for each; batches are those of `Folder`.

    A path may lack its ending and the folders around it, if there is one file of that name below `root`, as in the
    tables that are published with dermoscopy images and chest X-rays. Several label columns hold a 1 for the class
    and 0 for the others. Images of a patient stay together.
    """

    table: str  # path of the table
    root: str = ""  # folder of the images; "": that of the table
    path: str = "path"  # names of columns
    label: tuple[str, ...] = ("label",)
    patient: str = ""  # "": there is none
    site: str = ""  # "": a partition deals the images to hospitals
    split: str = ""  # of "train", "val" and "test"; "": shares are held out
    size: int = 96
    channels: int = 1  # 1 grey, 3 RGB
    holdout: float = 0.15  # share that tests where there is no column of splits
    validation: float = 0.1  # share of the training images that validates where no split does; 0: none
    partition: Partition = Sizes((1, 1, 1, 1))
    reading: ReadSettings = ReadSettings()

    def build(self, seed: int) -> Federation:
        """Returns the federation of hospitals by site, or by the partition.

        Raises UserError on a bad table, naming the column or the row.
        """
        rows, lines = self._rows()
        classes = self.label if len(self.label) > 1 else tuple(sorted({self._label(row) for row in rows}))
        read, examples = self._read(rows, classes)
        shares, window = (self.holdout, self.validation), self.reading.window
        honest = "; leave out --data.split for honest ones" if self.split else ""
        return labelled_images.federation(
            self.table, read, examples, shares, self.partition, seed, TEST, window, lines, honest
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns all images as one test set.

        Raises UserError on a label that is not among the `classes` of a model.
        """
        rows, _ = self._rows()
        labelled.check_classes(self.table, [self._label(row) for row in rows], classes)
        read, examples = self._read(rows, classes)
        return {Path(self.table).stem: labelled.one_test(examples)}, labelled_images.quarantine_table(read)

    def _rows(self) -> tuple[list[Row], list[str]]:
        """Returns the rows that have a label, and a line on those that have none."""
        columns = (self.path, *self.label, *filter(None, (self.patient, self.site, self.split)))
        rows = rows_of(self.table, columns)
        some = [row for row in rows if self._label(row)]
        if not some:
            raise UserError(f"{self.table}: no row has a label in {', '.join(self.label)}: set data.label")
        left = f"{len(rows) - len(some)} of {len(rows)} rows have no label and are left out"
        return some, [left] * (len(some) < len(rows))

    def _label(self, row: Row) -> str:
        """Returns the class of a row, "" where it has none. Raises UserError on a row of several."""
        if len(self.label) == 1:
            return row[self.label[0]].strip()
        own = [name for name in self.label if is_one(row[name])]
        if len(own) > 1:
            raise UserError(f"{self.table}: {row[self.path]} is of {' and '.join(own)}: give each image one class")
        return own[0] if own else ""

    def _read(self, rows: Sequence[Row], classes: tuple[str, ...]) -> tuple[LoadedImages, Labelled]:
        """Returns the images of rows, and these as examples."""
        root = folder_of(self.table, self.root)
        paths = locate_files(self.table, root, [row[self.path].strip() for row in rows])
        by_path = dict(zip(paths, rows))
        if len(by_path) < len(rows):
            several = next(path for path in paths if paths.count(path) > 1)
            raise UserError(f"{self.table}: {several} is in several rows: give each image one")
        read = load_images(paths, self.size, self.channels, self.reading, {path: path for path in paths})
        of_each = [by_path[files[0]] for files in read.files]
        splits = [row[self.split] for row in of_each] if self.split else []
        subsets = (
            labelled.parse_subsets(self.table, splits, [row[self.path] for row in of_each]) if self.split else None
        )
        sites = [row[self.site].strip() for row in of_each] if self.site else None
        patients = [row[self.patient].strip() if self.patient else "" for row in of_each]
        labels = [self._label(row) for row in of_each]
        return read, labelled_images.examples(self.table, read, classes, labels, subsets, sites, patients, SITE_REMEDY)


def read_table(path: str) -> list[Row]:
    """Returns the rows of a CSV or TSV file with a line of names of columns. Raises UserError where there are none."""
    try:
        content = Path(path).expanduser().read_bytes()
        if content.startswith(SPREADSHEETS):
            raise UserError(f"{path}: a spreadsheet and no table of text: save it as CSV there, and give that")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a table in UTF-8 ({short_message(error)}): save it as CSV in UTF-8") from error
    first = text.partition("\n")[0]
    mark = max("\t;,", key=first.count)
    try:
        rows: list[Row] = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, restkey="", restval=""))
    except csv.Error as error:
        raise UserError(f"{path}: not a table ({short_message(error)}): save it as CSV") from error
    if not rows:
        raise UserError(f"{path}: no rows below the names of columns: check the file")
    names = next(csv.reader([first], delimiter=mark))
    if twice := [name for name in rows[0] if names.count(name) > 1]:
        raise UserError(f"{path}: the column {twice[0]!r} is there twice: rename one")
    return [{name: "" if cell in NOTHING else cell for name, cell in row.items()} for row in rows]


def rows_of(table: str, columns: Sequence[str]) -> list[Row]:
    """Returns the rows of a table that has these columns. Raises UserError where it lacks one."""
    rows = read_table(table)
    for column in columns:
        if column not in rows[0]:
            there = ", ".join(rows[0])
            raise UserError(f"{table}: no column {column!r}, found {there}: set data.path, data.label, ...")
    return rows


def folder_of(table: str, root: str) -> Path:
    """Returns the folder that a table's paths are in: `root`, or where that is "" the folder of the table."""
    return Path(root).expanduser() if root else Path(table).expanduser().parent


def is_one(text: str) -> bool:
    """Returns whether a cell of a one-hot column holds a 1."""
    return text.strip().lower() in ("1", "1.0", "true")


def locate_files(table: str, root: Path, names: Sequence[str]) -> list[Path]:
    """Returns the file or folder of each name: that path, else the file below root that is so named.

    Its ending may be left out.

    A name without any file keeps its path, and its image is said to be missing. Raises UserError where there are
    several files of that name, or none of any.
    """
    if all((root / name).exists() for name in names):
        return [root / name for name in names]
    below: dict[str, list[Path]] = {}
    for here, _, files in folders.walk(root):
        for file in files:
            for key in {file, Path(file).stem}:
                below.setdefault(key, []).append(here / file)
    found = [[root / name] if (root / name).exists() else below.get(Path(name).name, []) for name in names]
    for name, several in zip(names, found):
        if len(several) > 1:
            both = " and ".join(map(str, several[:2]))
            raise UserError(f"{table}: {name} may be {both}: write its path below {root}")
    if not any(found):
        raise UserError(f"{table}: there is no file {names[0]} below {root}, nor of any other row: set data.root")
    return [several[0] if several else root / name for name, several in zip(names, found)]
