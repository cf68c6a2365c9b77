"""NIfTI, .nii and .nii.gz: a volume in slices as a radiologist sees them, written back onto its own grid.

A volume is turned to axes left, posterior, superior, whatever its own; slices are its axial ones. Nothing of it is
read before what its header claims has been held against the file and the limits.
"""

import gzip
import io
import math
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.orientation import spacing, turns
from fedjax_mri.data.files.scan import HEAD, Conversion, Limits, Origin, Reader, Scan, check_bytes, check_slice

GZIP = b"\x1f\x8b"
SINGLE = (b"n+1\0", b"n+2\0")  # header and image in one file
PAIRED = (b"ni1\0", b"ni2\0")


def marked(head: bytes) -> bool:
    """Whether these first bytes are a NIfTI header's."""
    return head[344:348] in SINGLE + PAIRED or head[4:8] in SINGLE + PAIRED


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """All axial slices. Raises UserError on a header that lies, on more than one volume and on colours."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        image = volume(stream, None if packed else path.stat().st_size, limits)
    turn, turn_back = turns(image.affine)
    slices = np.ascontiguousarray(
        turn(image.get_fdata(dtype=np.float32, caching="unchanged").reshape(three(image.shape)))
    )
    check_slice(slices.shape[1], slices.shape[2], limits)
    units: Literal["hu", "arbitrary"] = "hu" if modality == "ct" else "arbitrary"
    written = partial(encode, image.header.copy(), image.affine, image.shape, turn_back, packed)
    return Scan(slices, units, written, spacing(image.affine), Origin(modality))


def volume(stream: BinaryIO, held: int | None, limits: Limits) -> Any:
    """A nibabel image from a stream of `held` bytes, where that is known; no more is read than the header claims."""
    import nibabel

    head = stream.read(HEAD)
    if not marked(head):
        raise UserError("compressed, but no NIfTI inside: give .nii.gz")
    if head[344:348] in PAIRED or head[4:8] in PAIRED:
        raise UserError("a NIfTI header without its image: give a single .nii or .nii.gz")
    kind = nibabel.Nifti1Image if head[344:348] in SINGLE else nibabel.Nifti2Image
    header = kind.header_class(head[: kind.header_class.template_dtype.itemsize])
    claimed = claim(header, limits)
    if held is not None and held < claimed:
        raise UserError(f"the header claims {claimed} bytes, the file has {held}: it was cut short")
    content = head + stream.read(max(claimed - len(head), 0))
    if len(content) < claimed:
        raise UserError(f"the header claims {claimed} bytes, the file has {len(content)}: it was cut short")
    return kind.from_stream(io.BytesIO(content))


def claim(header: Any, limits: Limits) -> int:
    """Bytes that a file with this header must have. Raises UserError where they cannot be a volume."""
    shape, dtype, offset = [int(n) for n in header.get_data_shape()], header.get_data_dtype(), header["vox_offset"]
    if min(shape, default=0) < 1 or not 0 <= float(offset) <= limits.bytes:
        raise UserError(f"its header claims the shape {tuple(shape)} after {offset} bytes: write it again")
    if dtype.kind not in "iuf":
        raise UserError(f"voxels of type {dtype}: give real numbers")
    voxels = math.prod(shape)
    check_bytes(voxels * max(dtype.itemsize, 4), "its header claims", limits)
    if math.prod(shape[3:]) > 1:
        raise UserError(f"{math.prod(shape[3:])} volumes of shape {tuple(shape[:3])}: give one volume a file")
    return int(offset) + voxels * dtype.itemsize


def three(shape: Any) -> tuple[int, int, int]:
    """The shape with exactly 3 axes; axes beyond them have length 1."""
    x, y, z = (*shape, 1, 1)[:3]
    return x, y, z


def encode(
    header: Any,
    affine: np.ndarray,
    shape: tuple[int, ...],
    turn_back: Any,
    packed: bool,
    conversion: Conversion,
    values: np.ndarray,
    deviation: bool,
) -> list[bytes]:
    """The bytes of one file on the source's grid: int16 HU, or float32; slope 1 and intercept 0.

    Extensions, which speak of the source, are left out.
    """
    import nibabel

    whole = conversion.hounsfield and not deviation
    array = turn_back(values).reshape(shape)
    array = np.rint(array).astype(np.int16) if whole else array.astype(np.float32)
    header = header.copy()
    header.extensions.clear()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    confined = f", {conversion.bounds}" if whole else ""
    text = f"fedjax-mri {conversion.model[:30]}: {conversion.source} to {conversion.to}{confined}" + ", sd" * deviation
    header["descrip"] = text.encode("ascii", "replace")[:79]
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    content = kind(array, affine, header).to_bytes()
    return [gzip.compress(content, 6, mtime=0) if packed else content]


READER = Reader(("NIfTI",), (".nii.gz", ".nii"), lambda head: head[:2] == GZIP or marked(head), read)
