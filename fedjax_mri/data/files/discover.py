"""Which files are read, which of them form one scan, and what the results are called."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import folders, series
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.files.read import ending_of, endings, readers
from fedjax_mri.data.files.scan import HEAD, File, Item

# Endings of files that hold voxels alone, and of the headers that may lie beside them.
HEADERS = {".img": (".hdr",), ".zraw": (".mhd",), ".raw": (".mhd", ".nhdr"), ".raw.gz": (".nhdr",)}
SINGLE = {".hdr": ".nii", ".mhd": ".mha", ".nhdr": ".nrrd"}  # what is made of a pair of files is one file


def items(folder: Path) -> tuple[list[Item], list[str]]:
    """Returns the scans below a folder, whole series and volumes, and lines on what is left out.

    Headers alone are read.

    Give each item to `read.read_scan`. Raises UserError where there is not one file, or a folder cannot be read.
    """
    files, left = find([folder])
    found, lines = series.items(files, whole=True)
    return found, left + lines


def find(inputs: Sequence[Path], out: Path | None = None) -> tuple[list[File], list[str]]:
    """Returns the files given and the images in the folders given, each once, and lines on what is left out.

    What lies in `out` is no part of them.

    Names are the files' own, and paths below the folders'. Where two would have the same name, all keep their path
    below the folder that they have in common.
    Raises UserError where there is not one file, or a folder cannot be read.
    """
    names: dict[Path, Path] = {}
    lines: list[str] = []
    for given in inputs:
        if given.is_dir():
            inside, left = images(given, out)
            names |= {
                absolute(path): output_name(path.relative_to(given)) for path in inside if absolute(path) not in names
            }
            lines += left
        else:
            given = header_beside(given)
            names.setdefault(absolute(given), output_name(Path(given.name)))
    if not names:
        raise UserError("; ".join([f"{', '.join(map(str, inputs))}: no files there: check the path", *lines]))
    if len(set(names.values())) < len(names):
        common = os.path.commonpath([path.parent for path in names])
        names = {path: output_name(path.relative_to(common)) for path in names}
    return [File(path, name) for path, name in names.items()], lines


def images(folder: Path, out: Path | None) -> tuple[list[Path], list[str]]:
    """Returns the files in a folder that are images by their name or content, and a line that counts the others."""
    found: list[Path] = []
    left: Counter[str] = Counter()
    for path in below(folder, out):
        if header_beside(path) != path:
            continue  # it is read with its header
        if is_image(path):
            found.append(path)
        else:
            left[path.suffix.lower() or "without ending"] += 1
    counts = ", ".join(f"{count} {ending}" for ending, count in left.most_common())
    return found, [f"{printable(folder)}: left out what is no image of a kind that can be read: {counts}"] * bool(left)


def below(folder: Path, out: Path | None) -> Iterator[Path]:
    """Yields all files in a folder, in order, but none below `out`, where files are written now."""
    for here, inside, files in folders.walk(folder):
        inside[:] = [name for name in inside if out is None or absolute(here / name) != absolute(out)]
        yield from (here / name for name in files)


def header_beside(path: Path) -> Path:
    """Returns the file of the header of a file that holds voxels alone, and any other file as it is."""
    for ending, headers in HEADERS.items():
        if path.name.lower().endswith(ending):
            stem = path.name[: -len(ending)]
            return next((path.with_name(stem + one) for one in headers if path.with_name(stem + one).is_file()), path)
    return path


def output_name(name: Path) -> Path:
    """Returns the name of the file that is made from a file of this name."""
    return name.with_suffix(SINGLE.get(name.suffix.lower(), name.suffix))


def is_image(path: Path) -> bool:
    """Returns whether a file's name or its first bytes are those of an image that can be read."""
    if path.name.lower().endswith(endings()) or not path.is_file():
        return True  # what is wrong with it is said when it is read
    try:
        with path.open("rb") as file:
            start = file.read(HEAD)
    except OSError:
        return True
    return any(reader.recognizes(start) for reader in readers())


def absolute(path: Path) -> Path:
    """Returns the absolute path, links left as they are."""
    return Path(os.path.abspath(path))


def deviation(name: Path) -> Path:
    """Returns the name of the standard deviation that is written beside an image."""
    return extended(name, "std")


def extended(name: Path, word: str) -> Path:
    """Returns the name with a word before its ending: a.nii.gz and "std" give a_std.nii.gz."""
    ending = ending_of(name.name)
    return name.with_name(f"{name.name.removesuffix(ending)}_{word}{ending}")
