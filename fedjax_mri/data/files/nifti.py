"""NIfTI, .nii, .nii.gz and .hdr with .img, and Analyze: a volume in slices as a radiologist sees them.

A volume is turned to axes left, posterior, superior, whatever its own; slices are its axial ones. Nothing of it is
read before what its header claims has been held against the file and the limits. What is made of it is one NIfTI file
on its own grid, packed if its name says so.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import packing, volume
from fedjax_mri.data.files.orientation import spacing, turns
from fedjax_mri.data.files.scan import HEAD, Conversion, Limits, Origin, Reader, Scan, check_slice

SINGLE = (b"n+1\0", b"n+2\0")  # header and image in one file
PAIRED = (b"ni1\0", b"ni2\0")
MM = {1: 1000.0, 3: 0.001}  # of the codes for metre and micron; 2 and all others are taken as mm
LABELS = 1002  # the intent of a map of labels


class Placement(NamedTuple):
    """How a volume lies in the patient."""

    affine: np.ndarray  # [4, 4], as the header has it
    millimetres: float  # of the affine's unit
    notes: tuple[str, ...]


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """Returns the scan.

    Raises UserError on a header that is false or has no form, on several volumes and on colours.
    """
    header, whole, said = read_parts(path, limits)
    form, (slope, intercept, scaled) = placement_of(header), scaling(header)
    shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
    turn, turn_back = turns(form.affine)
    array = np.ndarray(volume.three(shape), dtype, whole, order="F")
    height, width = turn(array).shape[1:]
    check_slice(height, width, limits)
    slices = volume.axial(array, turn, slope, intercept)
    encode = partial(file_bytes, header.copy(), form.affine, turn_back, packing.is_packed_name(path))
    step = tuple(side * form.millimetres for side in spacing(form.affine))
    notes = (*said, *form.notes, *scaled, *labels(header), *volume.doubts(form.affine, step))
    return Scan(slices, volume.units_of(modality), encode, step, Origin(modality), notes)


def read_parts(path: Path, limits: Limits) -> tuple[Any, np.ndarray, tuple[str, ...]]:
    """Returns a header of nibabel, the bytes of the voxels, and notes; of a pair, the header's path is given."""

    def claim(head: bytes) -> int:
        header = header_of(head)
        return claimed(header, limits) if in_one(header) else len(header.binaryblock)

    whole, notes = packing.content(path, claim)
    header = header_of(whole[:HEAD].tobytes())
    if in_one(header):
        return header, whole[int(start(header)) :], notes
    whole, more = packing.content(partner(path), lambda head: claimed(header, limits))
    return header, whole[int(start(header)) :], (*notes, *more)


def header_of(head: bytes) -> Any:
    """Returns the header in the first bytes of a file. Raises UserError where there is none."""
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

    kinds = {b"n+1\0": Nifti1Header, b"ni1\0": Nifti1PairHeader, b"n+2\0": Nifti2Header, b"ni2\0": Nifti2PairHeader}
    kind = kinds.get(head[344:348]) or kinds.get(head[4:8]) or (AnalyzeHeader if is_analyze(head) else None)
    if kind is None:
        raise UserError("compressed, but no NIfTI inside: give .nii.gz")
    if len(head) < kind.template_dtype.itemsize:
        raise UserError("its header was cut short: copy it again")
    header = kind(head[: kind.template_dtype.itemsize], check=False)  # whose warnings would name no file
    header["pixdim"][1:] = np.abs(header["pixdim"][1:])
    if kind is not AnalyzeHeader and header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # as the format's library does
    return header


def in_one(header: Any) -> bool:
    """Returns whether header and voxels are in one file."""
    return "magic" in header.keys() and bytes(header["magic"].item())[:3] in (b"n+1", b"n+2")  # noqa: SIM118


def claimed(header: Any, limits: Limits) -> int:
    """Returns the number of bytes that the file of the voxels must have."""
    shape = tuple(map(int, header.get_data_shape()))
    return volume.claimed_bytes(shape, volume.dtype_of(header), start(header), limits)


def start(header: Any) -> float:
    """Returns where the voxels begin. Raises UserError where that is within the header."""
    offset, least = float(header["vox_offset"]), len(header.binaryblock) if in_one(header) else 0
    if 0 < offset < least:
        raise UserError(f"its header claims that voxels begin at {offset:g}, within itself: write it again")
    return offset or (least + 4 if least else 0)


def partner(path: Path) -> Path:
    """Returns the file of the voxels beside that of a header. Raises UserError where there is none."""
    found = next((path.with_suffix(ending) for ending in (".img", ".IMG") if path.with_suffix(ending).is_file()), None)
    if found is None:
        raise UserError(f"a header without its image: put {path.with_suffix('.img').name} beside it")
    return found


def placement_of(header: Any) -> Placement:
    """Returns where a volume lies: by its sform, else by its qform. Raises UserError without either."""
    if "sform_code" not in header.keys():  # noqa: SIM118  (a header iterates over more than its keys)
        said = "an Analyze file, which does not say which side is left: taken as usual"
        return Placement(header.get_base_affine(), 1.0, (said,))
    sform, qform = header.get_sform(coded=True)[0], rotation(header)
    millimetres = MM.get(int(header["xyzt_units"]) % 8, 1.0)
    if qform is not None and (sform is None or flat(sform)):
        return Placement(qform, millimetres, ())
    if sform is None:
        raise UserError("does not say how it lies in the patient: write its sform or qform")
    return Placement(sform, millimetres, differing(sform, qform))


def rotation(header: Any) -> np.ndarray | None:
    """Returns the affine of the qform; None where it is not set, or its quaternion is none."""
    from nibabel.spatialimages import HeaderDataError

    try:
        return header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):
        return None


def flat(affine: np.ndarray) -> bool:
    """Returns whether an affine is of no use."""
    return not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12


def differing(sform: np.ndarray, qform: np.ndarray | None) -> tuple[str, ...]:
    """Returns a sentence where two forms lay the volume's axes in different directions."""
    from nibabel import aff2axcodes

    if qform is None or flat(qform) or flat(sform):
        return ()
    own, other = ("".join(map(str, aff2axcodes(form))) for form in (sform, qform))
    return (f"its sform says {own} and its qform {other}: the sform counts",) if own != other else ()


def scaling(header: Any) -> tuple[float, float, tuple[str, ...]]:
    """Returns the slope and intercept, 1 and 0 where none are set; and a sentence where they are not finite."""
    if "scl_slope" not in header.keys():  # noqa: SIM118
        return 1.0, 0.0, ()
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0, ()
    if not math.isfinite(slope) or not math.isfinite(intercept):
        return 1.0, 0.0, (f"its scaling, {slope} and {intercept}, is not finite: values are taken as stored",)
    return slope, intercept, ()


def labels(header: Any) -> tuple[str, ...]:
    """Returns a sentence on a header that speaks of labels."""
    found = "intent_code" in header.keys() and int(header["intent_code"]) == LABELS  # noqa: SIM118
    return ("its header says that it holds labels, not an image",) if found else ()


def file_bytes(
    header: Any,
    affine: np.ndarray,
    turn_back: Any,
    packed: bool,
    conversion: Conversion,
    values: np.ndarray,
    deviation: bool,
) -> list[bytes]:
    """Returns the bytes of one file on the source's grid: int16 HU, or float32; slope 1 and intercept 0.

    Extensions, which speak of the source, are left out.
    """
    made, dtype = single(header, affine), volume.stored_type(conversion, deviation)
    made.set_data_dtype(dtype)
    made["scl_slope"], made["scl_inter"] = 1, 0
    made["cal_min"] = made["cal_max"] = 0
    made["descrip"] = volume.description(conversion, deviation).encode("ascii", "replace")[:79]
    made["vox_offset"] = len(made.binaryblock) + 4
    pieces = volume.planes(values, turn_back, made.get_data_dtype())
    return [packing.written(made.binaryblock + bytes(4), pieces, packed)]


def single(header: Any, affine: np.ndarray) -> Any:
    """Returns the header of a single file, without extensions, made of a header of any kind."""
    from nibabel import Nifti1Header, Nifti2Header

    two = len(header.binaryblock) == 540
    made = (Nifti2Header if two else Nifti1Header)(endianness=header.endianness)
    if "magic" not in header.keys():  # noqa: SIM118
        made.set_data_shape(header.get_data_shape())
        made.set_qform(affine, 1)
        made.set_sform(affine, 1)
        return made
    for name in header.keys():  # noqa: SIM118
        if name not in ("magic", "vox_offset"):
            made[name] = header[name]
    return made


def is_analyze(head: bytes) -> bool:
    """Returns whether these first bytes may be an Analyze header's.

    That is: its own length, 1 to 7 axes, and no mark of NIfTI.
    """
    order: Literal["little", "big"] = "little" if head[:4] == b"\x5c\1\0\0" else "big"
    length, axes = (int.from_bytes(part, order) for part in (head[:4], head[40:42]))
    return length == 348 and 1 <= axes <= 7 and not head[344:348].strip(b"\0")


def recognizes(head: bytes) -> bool:
    """Returns whether these first bytes are such a header's, or of a packed file."""
    marked = head[344:348] in SINGLE + PAIRED or head[4:8] in SINGLE + PAIRED
    return head[:2] == packing.GZIP or marked or is_analyze(head)


READER = Reader(("NIfTI", "Analyze"), (".nii.gz", ".nii", ".hdr"), recognizes, read)
