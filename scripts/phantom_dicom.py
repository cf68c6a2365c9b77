"""Writes patients of the phantom as a scanner would: DICOM series, or NIfTI volumes, from several institutions.

    python scripts/phantom_dicom.py OUT --sites 3 --patients 8 --slices 4 --layout classes --files dicom

`classes` writes OUT/CLASS/PATIENT/IM0001.dcm of one modality; `modalities` writes OUT/ct/PATIENT and OUT/mr/PATIENT.
`nifti` writes PATIENT.nii.gz instead, and `mixed` every other patient so. CT and MR of a patient lie in the same frame
of reference. Institutions differ as scanners do: in the scale of MR, in how CT is stored and padded, in field of view.

The phantom knows single slices. The slices of one series are of phantom patients of one class at one site: their
headers are those of a volume, and their anatomy is not.
"""

import argparse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from fedjax_mri.data.phantom import CLASSES, Phantom
from fedjax_mri.data.phantom.gallery import patients
from fedjax_mri.data.phantom.procedural import census, origin
from fedjax_mri.data.phantom.source import pictures

GAP = 5.0  # mm between slices
MAKERS = (("SIEMENS", "Skyra"), ("GE MEDICAL SYSTEMS", "Discovery"), ("Philips", "Ingenia"))


class Patient(NamedTuple):
    """One patient's slices, and where they were scanned."""

    name: str
    label: str
    site: int
    pixel: float  # mm
    tesla: float
    images: dict[str, np.ndarray]  # "ct" in HU and "mr" in 0..1, each [D, H, W]


def draw(sites: int, count: int, slices: int, size: int, seed: int) -> Iterator[Patient]:
    """Yields `count` patients of each site."""
    phantom = Phantom(size=size, clients=sites)
    traits, _ = census(pictures(phantom), phantom.sites, origin(phantom, seed), sites)
    drawn = patients(phantom, sites, seed, each=count * slices + len(CLASSES) * (slices - 1))
    for site in range(sites):
        labels = drawn["label"][site]
        of_class = [np.flatnonzero(labels == label) for label in range(len(CLASSES))]
        groups = [some[at : at + slices] for some in of_class for at in range(0, len(some) - slices + 1, slices)]
        for number, group in enumerate(sorted(groups, key=lambda group: group[-1])[:count], 1):
            images = {name: drawn[name][site, group, ..., 0] for name in ("ct", "mr")}
            pixel, tesla = float(traits.field_of_view[site]) / size, float(traits.field[site])
            yield Patient(f"S{site + 1:02d}P{number:03d}", CLASSES[labels[group[0]]], site, pixel, tesla, images)


def dicom(patient: Patient, modality: str, place: int) -> Dataset:
    """One slice as the scanner of its site stores it."""
    depth, height, width = patient.images[modality].shape
    site, (maker, model) = patient.site, MAKERS[patient.site % len(MAKERS)]
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = CTImageStorage if modality == "ct" else MRImageStorage
    made.SOPInstanceUID = uid(patient.name, modality, str(place))
    made.StudyInstanceUID, made.SeriesInstanceUID = uid(patient.name), uid(patient.name, modality)
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = uid(patient.name, "frame"), ""
    made.Modality, made.ImageType = modality.upper(), ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "ct" else "M"]
    made.PatientName, made.PatientID = f"Phantom^{patient.name}", patient.name
    made.PatientBirthDate = made.PatientSex = made.AccessionNumber = made.ReferringPhysicianName = ""
    made.StudyDate, made.StudyTime, made.StudyID, made.BodyPartExamined = "20260101", "120000", "1", "HEAD"
    made.InstitutionName, made.StationName = f"Hospital {site + 1}", f"{modality.upper()}{site + 1}"
    made.Manufacturer, made.ManufacturerModelName, made.DeviceSerialNumber = maker, model, str(1000 + site)
    made.SeriesNumber, made.InstanceNumber, made.PatientPosition = 1 if modality == "ct" else 2, place + 1, "HFS"
    made.SliceThickness, made.PixelSpacing = GAP, [round(patient.pixel, 6)] * 2
    corner = [-patient.pixel * (side - 1) / 2 for side in (width, height)]
    made.ImagePositionPatient = [round(mm, 4) for mm in (*corner, GAP * (place - (depth - 1) / 2))]
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    if modality == "mr":
        made.ScanningSequence, made.SequenceVariant, made.ScanOptions, made.MRAcquisitionType = "SE", "NONE", "", "2D"
        made.MagneticFieldStrength, made.RepetitionTime, made.EchoTime = patient.tesla, 550, 12
        made.EchoTrainLength = 1
    else:
        made.KVP, made.AcquisitionNumber = 120, 1
    store(made, patient.images[modality][place], site)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def store(made: Dataset, image: np.ndarray, site: int) -> None:
    """Writes pixels: MR of the site's own scale; CT unsigned from -1024, or signed with padding around the circle."""
    signed = False
    if made.Modality == "MR":
        stored = np.rint(image * (400 + 700 * (site % 3)))
    elif signed := site % 2 == 1:
        middle = (np.array(image.shape) - 1) / 2
        outside = np.hypot(*(np.indices(image.shape) - middle[:, None, None])) > image.shape[0] / 2
        stored = np.where(outside, -2000, np.rint(image))
        made.add_new("PixelPaddingValue", "SS", -2000)
    else:
        stored = np.clip(np.rint(image) + 1024, 0, 4095)
    if made.Modality == "CT":
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = 0 if signed else -1024, 1, "HU"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = image.shape
    bits = 16 if signed else 12
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, bits, bits - 1, int(signed)
    made.add_new("PixelData", "OW", stored.astype("<i2").tobytes())


def uid(*names: str) -> str:
    """A unique identifier, the same for the same names."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'fedjax-mri phantom ' + ' '.join(names)).int}"


def volume(patient: Patient, modality: str) -> Any:
    """The slices as a NIfTI volume: CT in HU, MR of the site's own scale."""
    stack = patient.images[modality]
    scale = 1 if modality == "ct" else 400 + 700 * (patient.site % 3)
    corner = [patient.pixel * (side - 1) / 2 for side in stack.shape[:0:-1]]
    affine = np.diag([-patient.pixel, -patient.pixel, GAP, 1.0])
    affine[:3, 3] = *corner, -GAP * (len(stack) - 1) / 2
    return nibabel.Nifti1Image(np.rint(stack * scale).astype(np.int16).transpose(2, 1, 0), affine)


def write(folder: Path, patient: Patient, modality: str, as_nifti: bool) -> None:
    """Writes a patient's scan of one modality into a folder."""
    if as_nifti:
        folder.mkdir(parents=True, exist_ok=True)
        volume(patient, modality).to_filename(folder / f"{patient.name}.nii.gz")
        return
    (folder / patient.name).mkdir(parents=True, exist_ok=True)
    for place in range(len(patient.images[modality])):
        made = dicom(patient, modality, place)
        made.save_as(folder / patient.name / f"IM{place + 1:04d}.dcm", enforce_file_format=True)


def write_all(out: Path, layout: str, modality: str, files: str, drawn: Iterator[Patient]) -> int:
    """Writes patients, and returns how many there were."""
    count = 0
    for count, patient in enumerate(drawn, 1):
        as_nifti = files == "nifti" or (files == "mixed" and count % 2 == 0)
        if layout == "classes":
            write(out / patient.label, patient, modality, as_nifti)
        else:
            for each in ("ct", "mr"):
                write(out / each, patient, each, as_nifti)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layout", choices=("classes", "modalities"), default="classes")
    parser.add_argument("--files", choices=("dicom", "nifti", "mixed"), default="dicom")
    parser.add_argument("--modality", choices=("ct", "mr"), default="mr", help="of class folders")
    for name, default in (("sites", 3), ("patients", 8), ("slices", 4), ("size", 64), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    drawn = draw(options.sites, options.patients, options.slices, options.size, options.seed)
    count = write_all(options.out, options.layout, options.modality, options.files, drawn)
    print(f"{options.out}: {count} patients of {options.sites} institutions")


if __name__ == "__main__":
    main()
