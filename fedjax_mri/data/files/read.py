"""Any file as a picture: its kind is told by its first bytes, whatever its name."""

import warnings
from collections.abc import Callable
from pathlib import Path

from fedjax_mri.core.errors import UserError, brief
from fedjax_mri.data.files import dicom, nifti, raster
from fedjax_mri.data.files.picture import Limits, Picture, check_bytes, check_finite

Reader = Callable[[Path, str, Limits], Picture]


def read(path: Path, source: str, limits: Limits) -> Picture:
    """A picture of modality `source`. Raises UserError, with the reason and the remedy alone, where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders; what matters is checked here
            picture = reader(head(path, limits))(path, source, limits)
    except UserError:
        raise
    except Exception as error:  # a decoder fails in open-ended ways, and none may stop the rest
        raise UserError(f"cannot be read ({type(error).__name__}: {brief(error)}): write it again") from error
    check_finite(picture.slices)
    return picture


def head(path: Path, limits: Limits) -> bytes:
    """The first bytes of a file, which tell its kind."""
    if not path.exists():
        raise UserError("no such file: check the path")
    if not path.is_file():
        raise UserError("not a regular file: give files or folders")
    check_bytes(path.stat().st_size, "a file of", limits)
    with path.open("rb") as file:
        return file.read(nifti.HEADER)


def reader(head: bytes) -> Reader:
    """The reader for a file that begins with these bytes."""
    if not head:
        raise UserError("empty file: write it again")
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return raster.read
    if head[128:132] == b"DICM":
        return dicom.read
    if head[:2] == nifti.GZIP or nifti.marked(head):
        return nifti.read
    raise UserError("neither PNG, JPEG, DICOM nor NIfTI: give one of these")
