"""A made slice as a DICOM object derived from its source.

CT Image or MR Image, explicit little endian, with the source's patient, study, frame of reference and geometry, and
identifiers of its own. What it cannot know it does not state: of a CT's tube voltage or an MR's echo time, required but
possibly empty, nothing is said, and the required sequence is RM, research mode. A source without frame of reference,
position, orientation or spacing gives a Secondary Capture, which needs none of them.

HU are stored in steps of 1 (a standard deviation: 0.1) with RescaleType HU; display values of a CT in 4095 steps with
RescaleType US, unspecified; MR in 4095 steps of the display's 0..1, an MR Image having no rescaling.
"""

import functools
import importlib.metadata
import io
import uuid
from collections.abc import MutableSequence
from typing import Any

import numpy as np

from fedjax_mri.data.files.dicom_place import texts
from fedjax_mri.data.files.scan import Conversion

EMPTY_IF_UNKNOWN = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "InstanceNumber", "Laterality"),
]
IF_THERE = [
    *("StudyDescription", "TimezoneOffsetFromUTC", "PatientAge", "BodyPartExamined", "PatientPosition"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence", "BurnedInAnnotation"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
    *("SpacingBetweenSlices", "SliceLocation"),
]
PLACE = ["FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
ORIGIN = [
    "ReferencedFrameNumber",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
]
MORE_IF_PLACED = ["SliceThickness", "PositionReferenceIndicator"]
UNKNOWN = {
    "ct": ["KVP", "AcquisitionNumber"],
    "mr": ["ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"],
}
STORAGE = {"ct": "1.2.840.10008.5.1.4.1.1.2", "mr": "1.2.840.10008.5.1.4.1.1.4"}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STEPS = 4095  # of 0..1
Source = dict[str, Any]  # elements of the image that another is derived from, by their names


def metadata(dataset: Any) -> tuple[Source, tuple[str, ...]]:
    """Returns the elements of a source that a derived object needs; and which are left out, in sentences.

    Left out are values that their elements may not hold, such as a date 01/01/2020. Text is decoded.
    """
    present = [name for name in (*EMPTY_IF_UNKNOWN, *IF_THERE, *PLACE, *ORIGIN, *MORE_IF_PLACED) if name in dataset]
    values = {name: sound(dataset, name) for name in present}
    bad = [name for name, value in values.items() if value is None and texts(dataset, name)]
    dropped = tuple(f"its {name} is not valid, and left out of what is made" for name in bad)
    return {name: value for name, value in values.items() if value is not None}, dropped


def sound(dataset: Any, name: str) -> Any:
    """Returns the value of an element as it may be written.

    It is None where the element is absent, empty or not what it may hold.

    Numbers are shortened to the digits that DICOM allows. Identifiers stay as they are, since others refer to them.
    """
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import DSfloat, validate_value

    kind = dictionary_VR(name)
    try:
        if kind == "DS":
            return [DSfloat(one.replace(",", "."), auto_format=True) for one in texts(dataset, name)] or None
        value = dataset[name].value
        if kind == "SQ":
            return value if all(list(item.iterall()) for item in value) else None  # which decodes their text
        if kind == "PN":
            value = str(value)
        for one in value if isinstance(value, MutableSequence) else [value]:
            if kind != "UI":
                validate_value(kind, str(one), RAISE)
    except Exception:  # of a value that is not of its kind, in open-ended ways
        return None
    return None if value in (None, "") else value


def encode(source: Source, conversion: Conversion, values: np.ndarray, deviation: bool) -> bytes:
    """Returns the bytes of a DICOM file of values [rows, columns] in HU or 0..1."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    made = copied(source)
    identify(made, source, conversion, deviation)
    describe(made, source, conversion, deviation)
    store(made, values, conversion, deviation)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def has_position(source: Source) -> bool:
    """Returns whether the source says where it lies in the patient."""
    return all(source.get(name) for name in PLACE)


def copied(source: Source) -> Any:
    """Returns a new dataset with the patient, study and geometry of the source."""
    from pydicom import Dataset

    made, always = Dataset(), [*EMPTY_IF_UNKNOWN, *(MORE_IF_PLACED if has_position(source) else ["PatientOrientation"])]
    made.SpecificCharacterSet = "ISO_IR 192"
    for name in [*always, *(name for name in [*IF_THERE, *PLACE] if source.get(name) not in (None, ""))]:
        setattr(made, name, source.get(name))
    return made


def identify(made: Any, source: Source, conversion: Conversion, deviation: bool) -> None:
    """Writes identifiers: the source's study, a series for each of its series and command, an instance of its own."""
    made.StudyInstanceUID = source["StudyInstanceUID"]
    made.SeriesInstanceUID = uid(conversion.id, source["SeriesInstanceUID"], str(deviation))
    frame = source.get("ReferencedFrameNumber")  # of a multi-frame source
    names = [source["SOPInstanceUID"], *([] if frame is None else [str(frame)]), str(deviation)]
    made.SOPInstanceUID = uid(conversion.id, *names)
    made.SOPClassUID = STORAGE[conversion.to] if has_position(source) else SECONDARY_CAPTURE
    number = source.get("SeriesNumber")
    made.SeriesNumber = None if number is None else int(number) + (9500 if deviation else 9000)


def uid(command: uuid.UUID, *names: str) -> str:
    """Returns a unique identifier derived from a UUID, the same for the same names in the same command."""
    return f"2.25.{uuid.uuid5(command, ' '.join(names)).int}"


def describe(made: Any, source: Source, conversion: Conversion, deviation: bool) -> None:
    """Writes what the image is, what it was made of, and by which model."""
    from pydicom import Dataset

    model = conversion.model.replace("\\", "/")
    what = "standard deviation of " * deviation + f"{conversion.to.upper()} from {conversion.source.upper()}"
    made.Modality = conversion.to.upper()
    made.Manufacturer, made.ManufacturerModelName = "fedjax-mri", model[:64]
    made.SoftwareVersions = version()
    made.SeriesDescription = f"{model[:24]}: {what}"[:64]
    confined = f"; within the model's window, {conversion.bounds}" if conversion.bounds and not deviation else ""
    about = f"synthetic {what} by the model {model[:500]} of fedjax-mri; not a measurement{confined}"
    made.DerivationDescription = about
    origin = Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = source["SOPClassUID"], source["SOPInstanceUID"]
    if "ReferencedFrameNumber" in source:
        origin.ReferencedFrameNumber = source["ReferencedFrameNumber"]
    made.SourceImageSequence = [origin]
    if not has_position(source):
        made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "SYN"
        return
    made.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if conversion.to == "ct" else "OTHER"]
    for name in UNKNOWN[conversion.to]:
        setattr(made, name, None)
    if conversion.to == "mr":
        made.ScanningSequence, made.SequenceVariant = "RM", "NONE"


@functools.cache
def version() -> str:
    """Returns the version of this package, which is read once.

    Reading it takes a tenth of the time to write a slice.
    """
    return importlib.metadata.version("fedjax-mri")


def store(made: Any, values: np.ndarray, conversion: Conversion, deviation: bool) -> None:
    """Writes pixels [h, w], signed in HU, and how they are to be read and displayed."""
    signed, bits = conversion.hounsfield, 16 if conversion.hounsfield else 12
    step = (0.1 if deviation else 1.0) if signed else 1 / STEPS
    least, most = (-(2**15), 2**15 - 1) if signed else (0, STEPS)
    stored = np.clip(np.rint(values / step), least, most).astype("<i2" if signed else "<u2")
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = stored.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, bits, bits - 1, int(signed)
    if conversion.to == "ct":
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = "0", f"{step:.10g}", "HU" if signed else "US"
    low, high = display_window(conversion, deviation)
    made.WindowCenter, made.WindowWidth = f"{(low + high) / 2:.10g}", f"{high - low:.10g}"
    made.add_new("PixelData", "OW", stored.tobytes())


def display_window(conversion: Conversion, deviation: bool) -> tuple[float, float]:
    """Returns the window of the display, in the units that rescaling gives."""
    if conversion.hounsfield:
        assert conversion.window is not None
        low, high = conversion.window
        return (0.0, (high - low) / 4) if deviation else (low, high)
    return 0.0, 1.0 if conversion.to == "ct" else float(STEPS)
