"""DICOM: one single-frame CT or MR slice a file; a folder or series is its files.

Transfer syntaxes are allowed by name, and only those without compression: no decoder sees what a stranger has packed.
What the header claims is held against the limits and against the bytes that are there before pixels are touched.
"""

import io
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import derived
from fedjax_mri.data.files.scan import Limits, Origin, Reader, Scan, check_bytes, check_slice

ALLOWED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")  # implicit, explicit little, explicit big
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """One slice, in HU or MR magnitude. Raises UserError on all that is no such slice of that modality."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.pixels import apply_modality_lut

    check_syntax(read_file_meta_info(path).get("TransferSyntaxUID"))
    # From memory, where an element can be no longer than the file.
    dataset = dcmread(io.BytesIO(path.read_bytes()))
    check_object(dataset, modality)
    check_pixels(dataset, limits)
    values = apply_modality_lut(dataset.pixel_array, dataset).astype(np.float32)
    units: Literal["hu", "arbitrary"] = "hu" if dataset.Modality == "CT" else "arbitrary"
    encode = partial(derived.encode, derived.metadata(dataset))
    return Scan(values[None], units, encode, origin=origin(dataset))


def check_syntax(syntax: Any) -> None:
    """Raises UserError unless pixels are stored without compression."""
    if not syntax:
        raise UserError("states no transfer syntax: write it again with a complete file header")
    if syntax not in ALLOWED:
        raise UserError(f"transfer syntax {syntax.name} is not supported: decompress it, as `gdcmconv --raw` does")


def origin(dataset: Any) -> Origin:
    """Whose slice it is, and where it was made."""

    def text(*names: str) -> str:
        return next((str(dataset.get(name)) for name in names if dataset.get(name)), "")

    return Origin(
        modality=dataset.Modality.lower(),
        patient=text("PatientID"),
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        frame=text("FrameOfReferenceUID"),
        site=text("InstitutionName", "DeviceSerialNumber", "StationName"),
    )


def check_object(dataset: Any, wanted: str) -> None:
    """Raises UserError unless it is one slice of that modality, complete, and in units that it names."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1 or "SharedFunctionalGroupsSequence" in dataset:
        raise UserError(f"multi-frame, {frames} frames: split it into files of one frame")
    if "PixelData" not in dataset:
        raise UserError("holds no image: give CT or MR images")
    modality, kind = str(dataset.get("Modality") or "not stated"), list(dataset.get("ImageType") or ())
    allowed = [wanted.upper()] if wanted else ["CT", "MR"]
    if modality not in allowed:
        raise UserError(f"its modality is {modality}, not {' or '.join(allowed)}: give {' or '.join(allowed)}")
    if "LOCALIZER" in kind:
        raise UserError("a localizer, not a slice: leave it out")
    missing = [name for name in NEEDED if not dataset.get(name)]
    if missing:
        raise UserError(f"has no {missing[0]}: write it again as a complete object")
    hounsfield = "RescaleSlope" in dataset and dataset.get("RescaleType", "HU") in ("HU", "HU_MOD", "", None)
    if modality == "CT" and not hounsfield:
        raise UserError("its values are not in HU (RescaleSlope, RescaleType): give the scanner's own CT")


def check_pixels(dataset: Any, limits: Limits) -> None:
    """Raises UserError unless the header's claims are sensible and borne out by the bytes that are there."""
    rows, columns, bits = (int(dataset.get(name) or 0) for name in ("Rows", "Columns", "BitsAllocated"))
    colour = dataset.get("PhotometricInterpretation")
    if dataset.get("SamplesPerPixel") != 1 or colour != "MONOCHROME2":
        raise UserError(f"pixels are {colour or 'of no stated kind'}: give MONOCHROME2")
    check_slice(rows, columns, limits)
    if bits not in (8, 16, 32):
        raise UserError(f"{bits} bits a pixel: give 8, 16 or 32")
    claimed, held = rows * columns * bits // 8, len(dataset.PixelData)
    check_bytes(claimed, "its header claims", limits)
    if held < claimed:
        raise UserError(f"the header claims {claimed} bytes of pixels, the file has {held}: it was cut short")


READER = Reader(("DICOM",), (".dcm", ".dicom", ".ima"), lambda head: head[128:132] == b"DICM", read)
