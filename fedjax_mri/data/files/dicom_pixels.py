"""The pixels of a DICOM object: checked against its header, decoded, and brought to HU or MR magnitude.

What the header claims is held against the limits and against the bytes that are there before pixels are touched.
"""

from typing import Any

import numpy as np

from fedjax_mri.core.errors import UserError, install
from fedjax_mri.data.files import dicom_decoder
from fedjax_mri.data.files.dicom_place import numbers, texts
from fedjax_mri.data.files.scan import Limits, check_bytes, check_slice

JPEG = "1.2.840.10008.1.2.4."
BIG_ENDIAN = "1.2.840.10008.1.2.2"
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", BIG_ENDIAN)  # implicit, explicit little endian, explicit big
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
DECODERS = {  # transfer syntax -> the plug-in of pydicom that decodes it
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    # JPEG baseline, extended, lossless; JPEG-LS; JPEG 2000; high-throughput JPEG 2000
    **{JPEG + number: "pylibjpeg" for number in ["50", "51", "57", "70", "80", "81", "90", "91", "201", "202", "203"]},
}
AIR = -1000.0  # HU
OUTSIDE = -1200.0  # HU; noise in air does not reach it: what lies below is no measurement
NOT_AIR = -900.0  # HU


def check_syntax(syntax: Any) -> None:
    """Raises UserError on a transfer syntax that cannot be read."""
    if syntax in PLAIN:
        return
    name = getattr(syntax, "name", syntax)
    if syntax not in DECODERS:
        raise UserError(f"transfer syntax {name} is not supported: decompress it, as `gdcmconv --raw` does")
    from pydicom.pixels import get_decoder

    if DECODERS[syntax] not in get_decoder(syntax).available_plugins:
        raise UserError(f"compressed ({name}): its decoders are missing; {install('dicom')}")


def check_pixels(dataset: Any, frames: int, limits: Limits) -> None:
    """Raises UserError unless the header's claims are sensible and borne out by the bytes that are there."""
    rows, columns, bits, stored, high = (
        int(dataset.get(name) or 0) for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")
    )
    colour = dataset.get("PhotometricInterpretation")
    if dataset.get("SamplesPerPixel") != 1 or colour not in ("MONOCHROME1", "MONOCHROME2"):
        raise UserError(f"pixels are {colour or 'of no stated kind'}: give MONOCHROME2")
    check_slice(rows, columns, limits)
    if bits not in (8, 16, 32):
        raise UserError(f"{bits} bits a pixel: give 8, 16 or 32")
    if not 0 < stored <= bits or high != stored - 1:
        raise UserError(
            f"BitsStored {stored} and HighBit {high} of {bits} bits are not one below the other: write it again"
        )
    check_bytes(frames * rows * columns * max(bits // 8, 4), "its header claims", limits)
    claimed, held = frames * rows * columns * bits // 8, len(dataset.PixelData)
    if dataset.file_meta.TransferSyntaxUID in PLAIN and held < claimed:
        raise UserError(f"the header claims {claimed} bytes of pixels, the file has {held}: it was cut short")


def decode_pixel_data(dataset: Any, content: bytes, frames: int) -> np.ndarray:
    """Returns the stored numbers [frames, rows, columns] of a checked dataset, which was read from these bytes."""
    shape, syntax = (frames, int(dataset.Rows), int(dataset.Columns)), dataset.file_meta.TransferSyntaxUID
    if syntax in PLAIN:
        return dataset.pixel_array.reshape(shape)
    claimed = frames * shape[1] * shape[2] * int(dataset.BitsAllocated) // 8
    try:
        pixels = dicom_decoder.decode_compressed(content, claimed, DECODERS[syntax])
    except dicom_decoder.DecodingError as error:
        raise UserError(f"its pixels ({syntax.name}) cannot be decoded: {error}") from None
    if pixels.size != np.prod(shape):
        raise UserError(f"the header claims {np.prod(shape)} pixels, {pixels.size} were decoded: write it again")
    return pixels.reshape(shape)


def measured(dataset: Any, stored: np.ndarray, padding: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns float32 HU, or MR magnitude, of stored numbers [rows, columns]; and what was changed, in sentences.

    `padding` bool [rows, columns] tells the pixels that are padding, if there is any.
    """
    values, notes = apply_rescale(dataset, stored), []
    if dataset.Modality == "CT":
        outside, background = values < OUTSIDE, AIR
        if padding is not None:
            outside |= padding & ((values < OUTSIDE) | (values > NOT_AIR))
    else:
        kept = values if padding is None or padding.all() else values[~padding]
        background = min(0.0, float(kept.min()))
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            values, background = kept.max() - values, 0.0
            notes.append("stored with white for nothing (MONOCHROME1), and turned to black")
        outside = np.zeros(1, bool) if padding is None else padding & (values != background)
    if outside.any():
        notes.append("pixels outside the field of view are taken as background")
        values = np.where(outside, np.float32(background), values)
    return values, tuple(notes)


def apply_rescale(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Returns stored numbers in the modality's units, float32. Raises UserError where the file gives no way to them."""
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        kind = str(dataset.ModalityLUTSequence[0].get("ModalityLUTType") or "")
        if dataset.Modality == "CT" and kind.strip().upper() != "HU":
            raise UserError(f"its values are not in HU (ModalityLUTType {kind}): give the scanner's own CT")
        return np.asarray(apply_modality_lut(stored, dataset), np.float32)
    slope, intercept = numbers(dataset, "RescaleSlope", 1), numbers(dataset, "RescaleIntercept", 1)
    kind = next(iter(texts(dataset, "RescaleType")), "HU")
    if dataset.Modality == "CT" and (slope is None or kind.upper() not in ("HU", "HU_MOD")):
        raise UserError("its values are not in HU (RescaleSlope, RescaleType): give the scanner's own CT")
    if (slope is None) != (intercept is None):
        raise UserError("has only one of RescaleSlope and RescaleIntercept: give the scanner's own image")
    values = stored.astype(np.float32)
    if slope is None or intercept is None:
        return values
    if not slope[0]:
        raise UserError("RescaleSlope is 0, so that all values are the same: give the scanner's own image")
    values *= np.float32(slope[0])
    values += np.float32(intercept[0])
    return values


def padded(dataset: Any, stored: np.ndarray) -> np.ndarray | None:
    """Returns which stored numbers [frames, rows, columns] the file says are padding.

    It is None where the file says nothing of them.
    """
    ends = [int(dataset.get(name)) for name in PADDING if isinstance(dataset.get(name), int)]
    if not ends:
        return None
    words, bits = stored, int(dataset.BitsAllocated)
    if bits == 16 > int(dataset.BitsStored) and dataset.file_meta.TransferSyntaxUID in PLAIN:
        order = ">" if dataset.file_meta.TransferSyntaxUID == BIG_ENDIAN else "<"  # padding may have all bits set
        words = np.frombuffer(dataset.PixelData, f"{order}u2", stored.size).reshape(stored.shape)
    if words.dtype.kind == "i":
        ends = [(end + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1) for end in ends]
    else:
        ends = [end % (1 << bits) for end in ends]
    return (words >= min(ends)) & (words <= max(ends))
