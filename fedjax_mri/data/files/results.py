"""Writes what a command makes of files."""

from pathlib import Path

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.images import printable


def write(path: Path, content: bytes, out: str) -> None:
    """Writes a file atomically, and its folder; `out` is how the user named the folder of results.

    Raises UserError where the file system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be written: {error.strerror}; free space, or check {out}") from None
