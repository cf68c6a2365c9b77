"""Which files are converted, and what the results are called."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.read import endings


class File(NamedTuple):
    """A file to be converted."""

    path: Path
    name: Path  # of the result, below the output folder


def find(inputs: Sequence[Path], out: Path) -> list[File]:
    """The files given and those in the folders given, each once; names are theirs, and paths below the folders'.

    Where two would have the same name, all keep their path below the folder that they have in common.
    Raises UserError where there is not one file, or a folder cannot be read.
    """
    names: dict[Path, Path] = {}
    for given in inputs:
        for path in below(given, out) if given.is_dir() else [given]:
            names.setdefault(absolute(path), path.relative_to(given) if given.is_dir() else Path(path.name))
    if not names:
        raise UserError(f"{', '.join(map(str, inputs))}: no files there: check the path")
    if len(set(names.values())) < len(names):
        common = os.path.commonpath([path.parent for path in names])
        names = {path: path.relative_to(common) for path in names}
    return [File(path, name) for path, name in names.items()]


def below(folder: Path, out: Path) -> Iterator[Path]:
    """All files in a folder, in order; not the hidden ones, indices of DICOM media, and what is written there now."""
    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if name[0] != "." and absolute(Path(here, name)) != absolute(out))
        yield from (Path(here, name) for name in sorted(files) if name[0] != "." and name != "DICOMDIR")


def absolute(path: Path) -> Path:
    """The absolute path, links left as they are."""
    return Path(os.path.abspath(path))


def deviation(name: Path) -> Path:
    """The name of the standard deviation that is written beside an image."""
    ending = next((name.name[-len(end) :] for end in endings() if name.name.lower().endswith(end)), "")
    return name.with_name(f"{name.name[: len(name.name) - len(ending)]}_std{ending}")


def refuse(error: OSError) -> None:
    """Raises UserError for a folder that cannot be listed."""
    raise UserError(f"{error.filename}: {error.strerror}: make the folder readable")
