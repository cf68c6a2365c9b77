"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) by SimpleITK, the extra `itk`; read and written as `nifti.py` does."""

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError, brief
from fedjax_mri.data.files import volume
from fedjax_mri.data.files.orientation import spacing, turns
from fedjax_mri.data.files.scan import Conversion, Limits, Origin, Reader, Scan, check_slice

RAS = np.diag([-1.0, -1.0, 1.0])  # from ITK's axes, left, back and head, to NIfTI's
HEADER = 2**16  # bytes in which the fields below must be


class Kind(NamedTuple):
    """What is asked of a header's text before ITK reads it."""

    io: str  # ITK's name of its reader
    ending: str  # of a single file
    place: str  # the fields that say how the array lies, as patterns
    data: str  # the file of the voxels
    packed: str
    local: tuple[str, ...]  # what `data` may be beside a name


META = Kind(
    "MetaImageIO", ".mha", r"^(TransformMatrix|Orientation|Rotation)\s*=", r"^ElementDataFile\s*=\s*(.*?)\s*$",
    r"^CompressedData\s*=\s*True", ("LOCAL", "Local", "local"),
)  # fmt: skip
NRRD = Kind("NrrdImageIO", ".nrrd", r"^space:", r"^data ?file:\s*(.*?)\s*$", r"^encoding:\s*(gz|bz)", ())


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """All axial slices. Raises UserError on a header that lies, on more than one volume and on colours."""
    with path.open("rb") as file:
        text = file.read(HEADER).decode("latin-1")
    kind = NRRD if text.startswith("NRRD") else META
    check_text(kind, text)
    image = loaded(kind, path, limits)
    affine = affine_of(image)
    turn, turn_back = turns(affine)
    array = sitk().GetArrayViewFromImage(image).transpose(2, 1, 0)
    height, width = turn(array).shape[1:]
    check_slice(height, width, limits)
    packed = re.search(kind.packed, text, re.M | re.I) is not None
    form = (image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    encode = partial(encoded, kind, form, packed, turn_back)
    step = spacing(affine)
    said = volume.doubts(affine, step)
    return Scan(volume.axial(array, turn), volume.units_of(modality), encode, step, Origin(modality), said)


def sitk() -> Any:
    """SimpleITK. Raises UserError where it is not installed."""
    try:
        import SimpleITK
    except ImportError:
        raise UserError("needs SimpleITK: pip install 'fedjax-mri[itk]', or give NIfTI") from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def check_text(kind: Kind, text: str) -> None:
    """Raises UserError on a header without a place in the patient, and on voxels that are not beside it."""
    if not re.search(kind.place, text, re.M):
        raise UserError("does not say how it lies in the patient: write its orientation")
    named = re.search(kind.data, text, re.M)
    if named and named[1] not in kind.local and not re.fullmatch(r"[^/\\%\s][^/\\%]*\.z?raw(\.gz)?", named[1]):
        raise UserError(f"its voxels are in {named[1][:40]!r}: give one file, or .raw beside the header")


def loaded(kind: Kind, path: Path, limits: Limits) -> Any:
    """The image, of which nothing but the header was read before its claims were checked."""
    reader = sitk().ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(kind.io)
    try:
        reader.ReadImageInformation()
        check_claims(reader, limits)
        return reader.Execute()
    except RuntimeError as error:
        said = str(error).partition("ITK ERROR: ")[2] or str(error)
        raise UserError(f"cannot be read ({brief(RuntimeError(said))}): write it again") from None


def check_claims(reader: Any, limits: Limits) -> None:
    """Raises UserError where a header claims no volume of real numbers, or more than the limits."""
    size, kind = tuple(map(int, reader.GetSize())), sitk().GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or not re.search(r"^\d+-bit (un)?signed integer|^(32|64)-bit float", kind):
        raise UserError(f"voxels of type {kind}: give real numbers")
    if len(size) != 3:
        raise UserError(f"{len(size)} dimensions: give one volume of 3")
    volume.claimed_bytes(size, np.dtype(np.float64 if "64" in kind else np.float32), 0, limits)


def affine_of(image: Any) -> np.ndarray:
    """NIfTI's affine [4, 4] of an image."""
    affine = np.eye(4)
    affine[:3, :3] = RAS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = RAS @ image.GetOrigin()
    return affine


def encoded(
    kind: Kind, form: tuple, packed: bool, turn_back: Any, conversion: Conversion, values: np.ndarray, deviation: bool
) -> list[bytes]:
    """The bytes of one file on the source's grid: int16 HU, or float32."""
    array = volume.rounded(turn_back(values), volume.stored_type(conversion, deviation))
    image = sitk().GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    for setter, value in zip((image.SetSpacing, image.SetOrigin, image.SetDirection), form):
        setter(value)
    image.SetMetaData("Description", volume.description(conversion, deviation))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"made{kind.ending}")
        sitk().WriteImage(image, str(path), packed, 1)
        return [path.read_bytes()]


def recognizes(head: bytes) -> bool:
    """Whether a file that begins with these bytes is MetaImage or NRRD."""
    return head.startswith((b"NRRD000", b"ObjectType")) or b"\nNDims" in head[:200] or head.startswith(b"NDims")


READER = Reader(("MetaImage", "NRRD"), (".mha", ".mhd", ".nrrd", ".nhdr"), recognizes, read)
