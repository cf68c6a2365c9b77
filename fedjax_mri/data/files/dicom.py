"""DICOM: CT and MR images of one frame or many; a series is its files, see `series.py`."""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import derived, dicom_frames, dicom_pixels, dicom_slices
from fedjax_mri.data.files.dicom_place import image_plane, texts
from fedjax_mri.data.files.dicom_slices import Slice
from fedjax_mri.data.files.scan import HEAD, Limits, Origin, Reader, Scan

DEFLATED = "1.2.840.10008.1.2.1.99"
DIRECTORY = "1.2.840.10008.1.3.10"
ENDINGS = (".dcm", ".dicom", ".ima")
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
NOT_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"}  # third or later word of an MR's ImageType


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """Returns all frames of a file, in HU or MR magnitude.

    Raises UserError on all that is no image of that modality.
    """
    return dicom_slices.scan(slices(path, modality, limits), limits, volume=False)


def slices(path: Path, modality: str, limits: Limits) -> list[Slice]:
    """Returns the images of a file, one for each frame."""
    content = path.read_bytes()  # in memory, where an element can be no longer than the file
    dataset = parse(content, limits)
    check_object(dataset, modality)
    frames = dicom_frames.count(dataset)
    dicom_pixels.check_pixels(dataset, frames, limits)
    stored = dicom_pixels.decode_pixel_data(dataset, content, frames)
    padding = dicom_pixels.padded(dataset, stored)
    masks = [None] * frames if padding is None else padding
    return [image(*one) for one in zip(dicom_frames.split(dataset), stored, masks, strict=True)]


def image(dataset: Any, stored: np.ndarray, padding: np.ndarray | None) -> Slice:
    """Returns one image of a dataset of one frame.

    `stored` are its stored numbers [rows, columns], and `padding` tells which of these are padding.
    """
    check_kind(dataset)
    values, notes = dicom_pixels.measured(dataset, stored, padding)
    source, dropped = derived.metadata(dataset)
    return Slice(values, image_plane(dataset), origin(dataset), source, (*notes, *dropped))


def parse(content: Any, limits: Limits, elements: Sequence[str] = ()) -> Any:
    """Returns the dataset in a file's bytes, or an `mmap` of them.

    It has a transfer syntax even where the file states none.

    Where `elements` are given, only they are read, and what follows them is not.

    Raises UserError where a deflated one is larger than the limits allow, or the syntax is none that can be read.
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import BaseTag, Tag
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if DEFLATED.encode() in content[:HEAD]:
        syntax, end = file_header(content)
        content = inflated(content[end:], limits) if syntax == DEFLATED else content
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    tags: list[BaseTag | int] = [Tag(name) for name in elements]
    last = int(max(tags, default=0))
    stop = (lambda tag, vr, length: int(tag) > last) if tags else None
    dataset = read_partial(file, stop, force=True, specific_tags=tags or None)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise UserError("compressed, and states no transfer syntax: write it again with a complete file header")
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def file_header(content: Any) -> tuple[str, int]:
    """Returns the transfer syntax that the header of a file states, and where the header ends.

    The syntax is "" where it states none.
    """
    from pydicom.filereader import _read_file_meta_info, read_preamble

    file = io.BytesIO(content[:10_000])
    read_preamble(file, force=True)
    syntax = _read_file_meta_info(file).get("TransferSyntaxUID")
    return str(syntax or ""), file.tell()


def inflated(packed: bytes, limits: Limits) -> bytes:
    """Returns a whole file made of the deflated part of one. Raises UserError where it is too large or not whole."""
    from pydicom.uid import ExplicitVRLittleEndian

    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        dataset = unpacker.decompress(packed, limits.bytes + 1)
    except zlib.error:
        raise UserError("deflated, and damaged: write it again") from None
    if len(dataset) > limits.bytes:
        raise UserError(f"deflated, of more than {limits.bytes / 1e9:.1f} GB: raise --limits.bytes if you trust it")
    if not unpacker.eof:
        raise UserError("deflated, and its end is missing: it was cut short")
    syntax = ExplicitVRLittleEndian.encode()
    syntax += b"\0" * (len(syntax) % 2)
    return bytes(128) + b"DICM\x02\x00\x10\x00UI" + len(syntax).to_bytes(2, "little") + syntax + dataset


def origin(dataset: Any) -> Origin:
    """Returns whose image it is, and where it was made."""

    def text(*names: str) -> str:
        return next((str(value) for name in names if (value := derived.sound(dataset, name))), "")

    return Origin(
        modality=str(dataset.get("Modality") or "").lower(),
        patient=text("PatientID"),
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        frame=text("FrameOfReferenceUID"),
        site=text("InstitutionName", "DeviceSerialNumber", "StationName"),
    )


def check_object(dataset: Any, wanted: str) -> None:
    """Raises UserError unless it is a complete image of that modality whose pixels can be read."""
    if dataset.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise UserError("an index of other files (DICOMDIR): give the files")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise UserError("pixels are floating-point numbers: write it again as integers with a slope")
    if "PixelData" not in dataset:
        kind = dataset.get("Modality")
        raise UserError(f"holds no image{f', but {kind}' if kind else ''}: give CT or MR images")
    dicom_pixels.check_syntax(dataset.file_meta.TransferSyntaxUID)
    modality = str(dataset.get("Modality") or "not stated")
    allowed = [wanted.upper()] if wanted else ["CT", "MR"]
    if modality not in allowed:
        raise UserError(f"its modality is {modality}, not {' or '.join(allowed)}: give {' or '.join(allowed)}")
    missing = [name for name in NEEDED if not dataset.get(name)]
    if missing:
        raise UserError(f"has no {missing[0]}: write it again as a complete object")


def check_kind(dataset: Any) -> None:
    """Raises UserError on images that are no slices, or no magnitude."""
    kind = [one.upper() for one in texts(dataset, "ImageType")]
    if "LOCALIZER" in kind:
        raise UserError("a localizer, not a slice: leave it out")
    if "MOSAIC" in kind:
        raise UserError("a mosaic, many slices in one picture: split it, as `dcm2niix` does")
    part = str(dataset.get("ComplexImageComponent") or "MAGNITUDE").upper()
    general_electric = dataset.get((0x0043, 0x102F))  # 0 magnitude, 1 phase, 2 real, 3 imaginary
    other = str(general_electric.value) in ("1", "2", "3") if general_electric is not None else False
    if dataset.Modality == "MR" and (NOT_MAGNITUDE & set(kind[2:]) or part not in ("MAGNITUDE", "MIXED") or other):
        raise UserError("a phase, real or imaginary image, not a magnitude: leave it out")


def recognizes(head: bytes) -> bool:
    """Returns whether these first bytes are a DICOM file's, be it without the preamble that a file should have."""
    if head[128:132] == b"DICM":
        return True
    group, element = head[:2], head[2:4]
    if group in (b"\x02\0", b"\x08\0") and element in (b"\0\0", b"\1\0", b"\5\0", b"\x08\0", b"\x12\0", b"\x16\0"):
        return head[4:6].isupper() or head[6:8] == b"\0\0"  # explicit, or implicit and short
    return group == b"\0\x08" and head[4:6].isupper()  # big endian is always explicit


READER = Reader(("DICOM",), ENDINGS, recognizes, read)
