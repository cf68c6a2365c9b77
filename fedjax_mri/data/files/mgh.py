"""MGH and MGZ, the volumes of FreeSurfer: read and written as `nifti.py` does."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import packing, volume
from fedjax_mri.data.files.orientation import spacing, turns
from fedjax_mri.data.files.scan import Conversion, Limits, Origin, Reader, Scan, check_slice

VERSION = b"\0\0\0\1"  # the first bytes of a header
OFFSET = 284  # bytes of a header
FIELDS = 90  # of them those that are used


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """Returns the scan. Raises UserError on a false header and on more than one volume."""
    from nibabel import MGHImage

    def claim(head: bytes) -> int:
        if len(head) < OFFSET:
            raise UserError("its header was cut short: copy it again")
        header = MGHImage.header_class(head[:OFFSET], check=False)
        return volume.claimed_bytes(shape_of(header), volume.dtype_of(header), OFFSET, limits)

    whole, notes = packing.content(path, claim)
    header = MGHImage.header_class(whole[:OFFSET].tobytes(), check=False)
    if not header["goodRASFlag"]:
        raise UserError("does not say how it lies in the patient: write its direction cosines")
    affine, shape = header.get_affine(), shape_of(header)
    turn, turn_back = turns(affine)
    array = np.ndarray(shape[:3], header.get_data_dtype(), whole, OFFSET, order="F")
    height, width = turn(array).shape[1:]
    check_slice(height, width, limits)
    encode = partial(file_bytes, header.copy(), turn_back, packing.is_packed_name(path))
    step = spacing(affine)
    said = (*notes, *volume.doubts(affine, step))
    return Scan(volume.axial(array, turn), volume.units_of(modality), encode, step, Origin(modality), said)


def shape_of(header: Any) -> tuple[int, ...]:
    """Returns the shape of the array, with 4 axes."""
    return tuple(int(n) for n in header["dims"])


def file_bytes(
    header: Any, turn_back: Any, packed: bool, conversion: Conversion, values: np.ndarray, deviation: bool
) -> list[bytes]:
    """Returns the bytes of one file on the source's grid: int16 HU, or float32."""
    made = header.copy()
    made.set_data_dtype(volume.stored_type(conversion, deviation))
    pieces = volume.planes(values, turn_back, made.get_data_dtype())
    return [packing.written(made.binaryblock[:FIELDS].ljust(OFFSET, b"\0"), pieces, packed)]


READER = Reader(("MGH",), (".mgz", ".mgh"), lambda head: packing.first_unpacked(head)[:4] == VERSION, read)
