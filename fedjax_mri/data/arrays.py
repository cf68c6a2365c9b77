"""Federations from one .npz file of images and labels, with or without sites, patients and splits; MedMNIST's too."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data import labelled
from fedjax_mri.data.contract import VALIDATION, Federation, Table, Test
from fedjax_mri.data.labelled import TEST, TRAINING, Labelled
from fedjax_mri.data.partition import IID, Partition

MEDMNIST = {"train": TRAINING, "val": VALIDATION, "test": TEST}  # its arrays are train_images, train_labels, ...


@dataclass(frozen=True)
class Arrays:
    """Images [n, H, W], [n, H, W, C], [n, D, H, W] or [n, D, H, W, C] and labels [n] of an .npz file.

    It may name the site, the patient and the split ("train", "val" or "test") of each. Without sites a partition deals
    the images to hospitals; without splits shares of the patients are held out. A MedMNIST file is read as it is
    published. uint8 images stay as they are; others become floats in which `black` is 0 and `white` is 1.
    """

    path: str
    images: str = "images"  # names of arrays in the file; those of sites, patients and splits may be missing
    labels: str = "labels"
    sites: str = "sites"
    patients: str = "patients"
    splits: str = "splits"
    classes: tuple[str, ...] = ()  # names of the labels in their order; (): the labels themselves
    black: float | None = None  # value of black; None: 0
    white: float | None = None  # value of white; None: of floats 1, of wide integers the largest that occurs
    holdout: float = 0.15  # share that tests where there are no splits
    validation: float = 0.1  # share of the training images that validates where no split does; 0: none
    channels: int = 4  # at most; a longer last axis is one of space. More: features of a fixed network as channels
    partition: Partition = IID(4)

    def build(self, seed: int) -> Federation:
        """Returns the federation of hospitals by site, or by the partition.

        Raises UserError, naming the array, on a file of anything else.
        """
        examples, notes = self._examples()
        divided = labelled.divide(self.path, examples, (self.holdout, self.validation), self.partition, seed)
        tables = (Table("Arrays", ("array", "type", "shape"), described(examples.arrays), self.path),)
        built = labelled.federation(examples, divided, TEST, tables)
        return built._replace(warnings=(*notes, *built.warnings))

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns all images as one test set.

        Raises UserError on a label that is not among the `classes` of a model.
        """
        examples = labelled.with_classes(self.path, self._examples()[0], classes)
        return {Path(self.path).stem: labelled.one_test(examples)}, ()

    def _examples(self) -> tuple[Labelled, list[str]]:
        """Returns the examples, and what was done to them."""
        found = medmnist(self.path, read(self.path)) if self.images == "images" else read(self.path)
        for name in (self.images, self.labels):
            if name not in found:
                raise UserError(
                    f"{self.path}: no array {name!r}, found {', '.join(found)}: set data.images, data.labels"
                )
        for name, usual in ((self.sites, "sites"), (self.patients, "patients"), (self.splits, "splits")):
            if name != usual and name not in found:
                raise UserError(f"{self.path}: no array {name!r}, found {', '.join(found)}: check data.{usual}")
        for name, array in found.items():
            if array.ndim == 0:
                raise UserError(f"{self.path}: {name} is a single value: give one for each image")
            if name in (self.labels, self.sites, self.patients, self.splits) and len(array) != len(found[self.images]):
                raise UserError(f"{self.path}: {len(found[self.images])} images and {len(array)} {name}: give as many")
        laid_out, layout_note = layout(self.path, found[self.images], self.channels)
        shown, range_notes = grey_levels(self.path, laid_out, self.black, self.white)
        labels, classes = class_numbers(self.path, found[self.labels], self.classes)
        sites, patients = (found[name].astype(str) if name in found else None for name in (self.sites, self.patients))
        splits = found[self.splits].astype(str).tolist() if self.splits in found else None
        names = (f"image {number}" for number in range(len(labels)))
        subsets = None if splits is None else np.array(labelled.parse_subsets(self.path, splits, names))
        named = patients is not None and not np.isin(patients, ("", "nan")).any()
        if patients is not None:  # images of unknown patients are nobody's in common
            unknown = np.array([f"unknown patient of image {number}" for number in range(len(patients))])
            patients = np.where(np.isin(patients, ("", "nan")), unknown, patients)
        digests = copies(shown)
        groups = labelled.merge_groups(*([] if patients is None else [patients]), digests)
        labelled.check_patients(self.path, patients, {"site": sites, "split": subsets})
        examples = Labelled({"image": shown, "label": labels}, classes, groups, subsets, sites, named)
        return examples, [note for note in (layout_note, *range_notes, contradictions(digests, labels)) if note]


def read(path: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file; objects are refused, as reading them would run code. Raises UserError."""
    try:
        file = np.load(Path(path).expanduser(), allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise UserError(f"{path}: a single array: give an .npz file of images and labels (numpy.savez)")
        with file:
            return {name: array_of(path, file, name) for name in file.files}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or short_message(error)}: check the path") from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(
            f"{path}: not an .npz file of plain arrays ({short_message(error)}): write it with numpy.savez"
        ) from error


def array_of(path: str, file: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Returns one array of a file. Raises UserError where it holds Python's objects."""
    try:
        return file[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise UserError(
            f"{path}: {name} holds Python objects: save numbers or texts alone, as by numpy.stack({name}) of arrays "
            f"or {name}.astype(str) of texts"
        ) from error


def medmnist(path: str, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays under our names where they have MedMNIST's, else as they are.

    Raises UserError on half a split.
    """
    has = {split: [f"{split}_{what}" in found for what in ("images", "labels")] for split in MEDMNIST}
    splits = [split for split, both in has.items() if all(both)]
    if not splits:
        return dict(found)
    for split, both in has.items():
        if any(both) and not all(both):
            there, missing = (f"{split}_{what}" for what in (("images", "labels") if both[0] else ("labels", "images")))
            raise UserError(f"{path}: {there} without {missing}: add it, or take {there} out")
    together = {what: np.concatenate([found[f"{split}_{what}"] for split in splits]) for what in ("images", "labels")}
    return {**together, "splits": np.repeat(splits, [len(found[f"{split}_labels"]) for split in splits])}


def layout(path: str, images: np.ndarray, channels: int) -> tuple[np.ndarray, str]:
    """Returns images [n, (D,) H, W, C], and a note where their axes had to be moved.

    Raises UserError on other shapes.
    """
    if images.ndim not in (3, 4, 5) or 0 in images.shape:
        raise UserError(f"{path}: images of the shape {list(images.shape)}: give [n, H, W] or [n, H, W, C]")
    if images.ndim == 4 and images.shape[-1] > channels and 2 * images.shape[-1] <= min(images.shape[1:3]):
        raise UserError(
            f"{path}: images {list(images.shape)} have {images.shape[-1]} channels, or slices along their last axis: "
            f"give 1 to {channels} channels (data.channels), or volumes as [n, slices, rows, columns], as by "
            "numpy.moveaxis(x, -1, 1)"
        )
    if images.ndim == 3 or (images.ndim == 4 and min(images.shape[1], images.shape[3]) > channels):
        return images[..., None], ""
    if images.shape[-1] > channels and images.shape[1] <= channels:
        return np.moveaxis(images, 1, -1), f"images {list(images.shape)} are taken as [n, channels, ...]"
    if images.shape[-1] > channels:
        raise UserError(
            f"{path}: images {list(images.shape)} have {images.shape[-1]} channels: give 1 to {channels}, or allow "
            "more by data.channels"
        )
    return images, ""


def grey_levels(
    path: str, images: np.ndarray, black: float | None, white: float | None
) -> tuple[np.ndarray, list[str]]:
    """Returns images as uint8, or as float32 in 0..1, and notes where white was guessed, and where values are clipped.

    Raises UserError where they are no numbers, not finite, or below black.
    """
    if images.dtype.kind not in "buif":
        raise UserError(f"{path}: images are {images.dtype}: give integers or floats")
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255), []
    low, high = float(images.min()), float(images.max())
    said = f"images are {images.dtype} from {low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(images).reshape(len(images), -1).all(1)
        raise UserError(
            f"{path}: {int(bad.sum())} of {len(images)} images hold NaN or inf, the first of them image "
            f"{int(bad.argmax())}: replace these values, or leave the images out"
        )
    if images.dtype == np.uint8 and black is None and white is None:
        return images, []
    if low < 0 and black is None:
        raise UserError(f"{path}: {said}: say what is black and white, as --data.black {low:g} --data.white {high:g}")
    top, note = (white, "") if white is not None else guessed_white(images.dtype, high, said)
    bottom = 0.0 if black is None else black
    if not top > bottom:
        raise UserError(f"{path}: data.black={bottom:g}, data.white={top:g}: white must be above black")
    scaled = (images.astype(np.float32) - np.float32(bottom)) * np.float32(1 / (top - bottom))
    return np.clip(scaled, 0, 1), [note, clipped(images, bottom, top) if (black, white) != (None, None) else ""]


def clipped(images: np.ndarray, black: float, white: float) -> str:
    """Returns a note on pixels that lie outside of black and white; "" where none does."""
    outside = ((images < black) | (images > white)).reshape(len(images), -1)
    return (
        f"{int(outside.sum())} of {outside.size} pixels, in {int(outside.any(1).sum())} of {len(images)} images, lie "
        f"outside of data.black={black:g} and data.white={white:g} and are clipped"
    ) * bool(outside.any())


def guessed_white(dtype: np.dtype, high: float, said: str) -> tuple[float, str]:
    """Returns the value of white of images of which `high` is the largest value, and a note where it was guessed."""
    if dtype.kind == "f" and high <= 2:  # above 1 by interpolation
        return 1.0, f"{said}: 1 is taken as white, and what lies above is clipped" if high > 1 else ""
    white = 255.0 if high <= 255 else high
    return white, f"{said}: {white:g} is taken as white; set data.white for another"


def class_numbers(path: str, labels: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels int32 [n] and the names of their classes, from numbers, texts or one-hot rows.

    Raises UserError.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "buif":
        if not ((labels != 0).sum(1) == 1).all():
            raise UserError(
                f"{path}: labels {list(labels.shape)} with several or no classes of an image: give one each"
            )
        labels = labels.argmax(1)
    if labels.ndim != 1 or labels.dtype.kind not in "buifUS":
        raise UserError(
            f"{path}: labels are {labels.dtype} {list(labels.shape)}: give a number or a name for each image"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        bad = np.flatnonzero(~np.isfinite(labels))
        raise UserError(
            f"{path}: {len(bad)} of {len(labels)} labels are NaN or inf, the first of them that of image {bad[0]}: "
            "leave these images out"
        )
    if labels.dtype.kind == "f" and not (labels == np.floor(labels)).all():
        raise UserError(f"{path}: labels are {labels.dtype} with fractions: give whole numbers")
    values, numbers = np.unique(labels.astype(int) if labels.dtype.kind in "bf" else labels, return_inverse=True)
    if names and values.dtype.kind in "ui" and values[0] >= 0 and values[-1] < len(names):
        return labels.astype(np.int32), names
    if names and set(names) != set(values.astype(str).tolist()):
        raise UserError(f"{path}: labels are {', '.join(map(str, values[:9]))}, data.classes {', '.join(names)}")
    if names:
        numbers = np.array([names.index(str(value)) for value in values])[numbers]
    return numbers.astype(np.int32), names or tuple(map(str, values))


def copies(images: np.ndarray) -> np.ndarray:
    """Returns digests [n] that are equal for images that are, or that are one another's mirror image."""
    return np.array([min(digest(image), digest(image[..., ::-1, :])) for image in images])


def contradictions(digests: np.ndarray, labels: np.ndarray) -> str:
    """Returns a note on copies of one image that have different labels; "" where there are none."""
    _, of_each = np.unique(digests, return_inverse=True)
    held = np.unique(np.stack([of_each, labels]), axis=1)[0]  # once per label
    members = np.flatnonzero(np.bincount(held)[of_each] > 1)
    if not len(members):
        return ""
    first = np.flatnonzero(of_each == of_each[members[0]])
    other = first[labels[first] != labels[first[0]]][0]
    return (
        f"{len(members)} images are copies of others, or their mirror images, under different labels, such as images "
        f"{first[0]} and {other}"
    )


def digest(image: np.ndarray) -> bytes:
    """Returns a digest of an array's values."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest()


def described(arrays: Mapping[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """Returns a row for each array: its name, type and shape."""
    return [(name, str(array.dtype), str(list(array.shape))) for name, array in arrays.items()]
