"""Folders of files as they come: hidden files, the leftovers of other systems, and links that lead in a circle."""

import os
from collections.abc import Iterator
from pathlib import Path

from fedjax_mri.core.errors import UserError

LEFTOVERS = ("__MACOSX", "DICOMDIR")  # of archives made on a Mac; the index of DICOM media


def walk(top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yields like `os.walk` each folder with its folders and files, in order of their names, links followed.

    Hidden ones, which include a Mac's `._` files, and leftovers are passed over. A folder that can be reached in
    several ways is yielded once. A caller may take names out of the list of folders.

    Raises UserError for a folder that cannot be read.
    """
    been: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        about = os.stat(here)
        if (about.st_dev, about.st_ino) in been:
            folders.clear()
            continue
        been.add((about.st_dev, about.st_ino))
        folders[:] = sorted(filter(is_wanted, folders))
        yield Path(here), folders, sorted(filter(is_wanted, files))


def is_wanted(name: str) -> bool:
    """Returns whether a name is neither hidden nor a leftover's."""
    return name[0] != "." and name.upper() not in LEFTOVERS


def refuse(error: OSError) -> None:
    """Raises UserError for a folder that cannot be listed."""
    raise UserError(f"{error.filename}: {error.strerror}: make the folder readable")
