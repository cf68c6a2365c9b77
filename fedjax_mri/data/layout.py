"""Which class, split, site and patient the files below a folder are of, by the names of the folders they lie in.

A layout names the levels of folders in their order, as in split/class or site/class/patient.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import dicom, discover, folders, raster, read
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.labelled import SIDE_OF, TEST, TRAINING

MASK = re.compile(
    r"[ _-](mask|seg|segmentation|label)s?([ _-]?\d+)?$|^(mask|seg|segmentation|label)s?[ _-](?=.)", re.IGNORECASE
)
MASKS = re.compile(r"(mask|seg|segmentation|label)s?", re.IGNORECASE)  # a folder of them
NUMBER = re.compile(r"(?<=\d)\d{3}$|[_\-. ]+\d+$|(?<=\D)\d{1,3}$")  # of a slice, at the end of a name
LEVELS = ("split", "site", "class", "patient")


class PathLabels(NamedTuple):
    """The names of the folders in which a file lies, by level; "" for levels that there are not."""

    split: str = ""
    site: str = ""
    label: str = ""  # the class
    patient: str = ""


class Splits(NamedTuple):
    """The names of the folders that train and test; the usual ones are known beside them."""

    train: str
    test: str

    def side(self, split: str) -> str:
        """Returns the side of a folder of this name; "" where it says none."""
        named = {self.train: TRAINING, self.test: TEST}
        return named.get(split) or SIDE_OF.get(split.lower(), "")


def find(
    root: str, layout: str, splits: Splits, classes: Collection[str] = ()
) -> tuple[dict[Path, PathLabels], list[str]]:
    """Returns the images below a folder in order of their paths, each with its place, and lines on what is odd.

    Folders below the levels of `layout` are patients. There is a level "split" only where a folder of it has a known
    name. Of known `classes`, the last folder of such a name is the class, wherever it lies. Raises UserError on a
    folder that is missing, empty or unreadable, on an image in no class folder, and where folders may mean two things.
    """
    levels = levels_of(layout)
    top = Path(root).expanduser()
    if not top.is_dir():
        raise UserError(f"{root}: no such folder: check the path")
    paths, lines = images_below(top, classes)
    inside = {path: path.relative_to(top).parts[:-1] for path in paths}
    needed = [level for level in levels if level != "split"].index("class") + 1
    if outer := common(list(inside.values()), splits, needed):
        lines.append(f"all images are in the folder {printable(Path(*outer))}, which is passed over")
    inside = {path: names[len(outer) :] for path, names in inside.items()}
    if not any(splits.side(names[0]) for names in inside.values() if names):
        levels = tuple(level for level in levels if level != "split")
        if not classes:
            refuse_unclear(root, list(inside.values()), levels)
    return {path: path_labels(path, names, levels, classes) for path, names in inside.items()}, lines


def levels_of(layout: str) -> tuple[str, ...]:
    """Returns the levels of folders that a layout names.

    Raises UserError on other words, and where no level is the class.
    """
    levels = tuple(layout.split("/"))
    remedy = "give split, site, class and patient in their order, as --data.layout split/class"
    if unknown := [level for level in levels if level not in LEVELS]:
        raise UserError(f"data.layout={layout}: {unknown[0]!r} is no level of folders: {remedy}")
    if "class" not in levels or len(set(levels)) < len(levels):
        raise UserError(f"data.layout={layout}: the class must be named, and no level twice: {remedy}")
    return levels


def images_below(top: Path, classes: Collection[str] = ()) -> tuple[list[Path], list[str]]:
    """Returns all images below a folder but for masks, and lines on what is left out.

    Raises UserError on an empty folder.

    A folder named as one of masks, such as "masks" or "seg", is passed over, unless it is one of known `classes`.
    """
    found: list[Path] = []
    masks: list[Path] = []
    passed: list[Path] = []
    left: Counter[str] = Counter()
    for here, below, names in folders.walk(top):
        passed += [here / name for name in below if MASKS.fullmatch(name) and name not in classes]
        below[:] = [name for name in below if here / name not in passed]
        images = [here / name for name in names if discover.is_image(here / name)]
        read = {path.name for path in images}
        others = [Path(name).suffix.lower() or "without ending" for name in names if name not in read]
        if not images and not below and here not in {path.parent for path in passed}:
            there = f" but {', '.join(sorted(set(others)))}" if others else ""
            raise UserError(f"{printable(here)}: no images{there} in this folder: add some or remove it")
        masks += [path for path in images if is_mask(path, names)]
        images = [path for path in images if not is_mask(path, names)]
        found += images
        left.update(others if here != top else ())  # beside the folders lies what is for people to read
    counts = ", ".join(f"{count} {ending}" for ending, count in left.most_common())
    lines = [f"left out what is no image of a kind that can be read: {counts}"] * bool(counts)
    if masks:
        lines.append(f"left out {len(masks)} masks that lie beside their images, such as {printable(masks[0])}")
    if passed:
        lines.append(
            f"left out {len(passed)} folders of masks by their name, such as {printable(passed[0])}: rename a folder "
            "that holds images"
        )
    return found, lines


def is_mask(path: Path, names: Sequence[str]) -> bool:
    """Returns whether a file is named as the mask of an image among `names`, which lie beside it.

    It is of the image's name with a word before or after it, or in place of another word before it: a.png,
    a_mask.png, seg_a.png, image_a.png.
    """
    stem = stem_of(path.name)
    without = MASK.sub("", stem)
    if without == stem:
        return False
    others = {stem_of(name) for name in names} - {stem}
    before = stem.endswith(without)  # the word stood before the name
    ends = tuple(mark + without for mark in " _-")
    return without in others or (before and any(one.endswith(ends) and not MASK.search(one) for one in others))


def stem_of(name: str) -> str:
    """Returns the name of a file without the ending of its kind, such as .nii.gz."""
    return name.removesuffix(read.ending_of(name) or Path(name).suffix)


def common(inside: Sequence[tuple[str, ...]], splits: Splits, needed: int) -> tuple[str, ...]:
    """Returns the folders around all others: those that every path begins with.

    A split and the last ones `needed` are no part of them.
    """
    outer: tuple[str, ...] = ()
    while all(len(names) > len(outer) + needed for names in inside):
        here = {names[len(outer)] for names in inside}
        if len(here) > 1 or any(map(splits.side, here)):
            break
        outer += tuple(here)
    return outer


def refuse_unclear(root: str, inside: Sequence[tuple[str, ...]], levels: tuple[str, ...]) -> None:
    """Raises UserError where all first folders hold the same folders, which may be classes or patients."""
    below: dict[str, set[str]] = {}
    for names in inside:
        if len(names) < len(levels) + 1 or "patient" in levels:
            return
        below.setdefault(names[0], set()).add(names[len(levels)])
    several = list(below.values())
    if len(several) > 1 and len(several[0]) > 1 and all(one == several[0] for one in several):
        some = ", ".join(sorted(several[0])[:4])
        raise UserError(
            f"{root}: {', '.join(sorted(below)[:4])} each hold {some}: say which are classes, as --data.layout "
            "class/patient or site/class; or which folder trains, by data.train and data.test"
        )


def path_labels(path: Path, names: tuple[str, ...], levels: tuple[str, ...], classes: Collection[str]) -> PathLabels:
    """Returns the labels of a file in the folders `names`. Raises UserError where none of them is a class."""
    known = dict(zip(levels, names))
    rest = names[len(levels) :]
    if own := [name for name in names if name in classes]:
        known["class"] = own[-1]
    if "class" not in known:
        raise UserError(f"{printable(path)}: this image is in no class folder: move it into one, or away")
    patient = known.get("patient", "/".join(rest))
    return PathLabels(known.get("split", ""), known.get("site", ""), known["class"], patient)


def files_of_patients(root: str) -> tuple[dict[Path, str], list[str]]:
    """Returns the images below a folder and the patient of each by its folders or name, and lines on what is odd.

    "" for DICOM files outside of any folder, which name the patient themselves. Raises UserError on a folder that is
    missing, empty or unreadable.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise UserError(f"{root}: no such folder: check the path")
    paths, lines = images_below(top)
    return {path: patient_of(path.relative_to(top)) for path in paths}, lines


def patient_of(path: Path) -> str:
    """Returns the patient of a file by its folders, else by its name.

    A picture's name counts without the number of its slice.
    """
    if len(path.parts) > 1:
        return "/".join(path.parts[:-1])
    name = path.name.lower()
    stem = stem_of(path.name)
    ending = name[len(stem) :]
    if ending in raster.ENDINGS:
        return NUMBER.sub("", stem) or stem
    return "" if ending in dicom.ENDINGS or not ending else stem
