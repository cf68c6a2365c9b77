"""Any file as a scan: its kind is told by its first bytes, whatever its name.

A new kind of file is one module of this folder with a `READER`.
"""

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Callable
from pathlib import Path

from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data import files
from fedjax_mri.data.files import series
from fedjax_mri.data.files.scan import HEAD, Item, Limits, Reader, Scan, check_bytes
from fedjax_mri.data.files.units import resolve_units


@functools.cache
def readers() -> tuple[Reader, ...]:
    """Returns the readers of all kinds of files, in the order of their modules."""
    names = sorted(one.name for one in pkgutil.iter_modules(files.__path__) if one.name != "read")
    modules = [importlib.import_module(f"{files.__name__}.{name}") for name in names]
    return tuple(module.READER for module in modules if hasattr(module, "READER"))


def endings() -> tuple[str, ...]:
    """Returns the endings of the names of all kinds of files, in lower case, with their dots."""
    return tuple(ending for reader in readers() for ending in reader.endings)


def ending_of(name: str) -> str:
    """Returns the ending of a file's name as it is written, such as .nii.gz.

    It is "" where no kind that can be read has it.
    """
    known = (ending for ending in endings() if name.lower().endswith(ending))
    return name[len(name) - len(max(known, key=len, default="")) :]


def read(path: Path, modality: str, limits: Limits, ct_offset: float | None = None) -> Scan:
    """Returns the scan in a file, of modality "ct" or "mr", or "" for whatever the file says.

    `ct_offset` is added to a CT whose file does not state that it is in HU; without one it is checked (`units.py`).
    Raises UserError, with the reason and the remedy alone, where there is none.
    """
    return read_checked(lambda: reader_of(head(path, limits)).read(path, modality, limits), ct_offset)


def read_scan(item: Item, modality: str, limits: Limits, ct_offset: float | None = None) -> Scan:
    """Returns the scan of an item: that in its file, or the volume of its DICOM series. Otherwise it is like `read`."""
    if len(item.paths) == 1:
        return read(item.paths[0], modality, limits, ct_offset)
    for path in item.paths:
        head(path, limits)
    return read_checked(lambda: series.read(item.paths, modality, limits), ct_offset)


def read_checked(read: Callable[[], Scan], ct_offset: float | None) -> Scan:
    """Returns what `read` gives, with known units.

    Warnings of its decoder, which name no file, are not shown.

    Raises UserError on whatever fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is checked here
            scan = read()
    except UserError:
        raise
    except Exception as error:  # a decoder fails in open-ended ways, and none may stop the rest
        raise UserError(f"cannot be read ({type(error).__name__}: {short_message(error)}): write it again") from error
    return resolve_units(scan, ct_offset)


def head(path: Path, limits: Limits) -> bytes:
    """Returns the first bytes of a file, which tell its kind."""
    if not path.exists():
        raise UserError("no such file: check the path")
    if not path.is_file():
        raise UserError("not a regular file: give files or folders")
    check_bytes(path.stat().st_size, "a file of", limits)
    with path.open("rb") as file:
        return file.read(HEAD)


def reader_of(head: bytes) -> Reader:
    """Returns the reader for a file that begins with these bytes. Raises UserError where there is none."""
    if not head:
        raise UserError("empty file: write it again")
    found = next((reader for reader in readers() if reader.recognizes(head)), None)
    if found is None:
        kinds = ", ".join(kind for reader in readers() for kind in reader.kinds)
        raise UserError(f"of no kind that can be read: give one of {kinds}")
    return found
