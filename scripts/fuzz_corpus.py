"""Small sound files of every kind that can be read, for fuzz_readers.py."""

import pathlib
import shutil
from collections.abc import Callable, Iterator

import nibabel
import numpy as np
import SimpleITK
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

AFFINE = np.array([[0, 0, 3.0, -15], [-1, 0, 0, 8], [0, -1.5, 0, 9], [0, 0, 0, 1]])
DICOM = {  # kind -> file of pydicom
    "DICOM, explicit": "MR_small.dcm",
    "DICOM, implicit": "MR_small_implicit.dcm",
    "DICOM, big endian": "MR_small_bigendian.dcm",
    "DICOM, CT": "CT_small.dcm",
    "DICOM, RLE": "MR_small_RLE.dcm",
    "DICOM, JPEG 2000": "MR_small_jp2klossless.dcm",
    "DICOM, JPEG-LS": "MR_small_jpeg_ls_lossless.dcm",
}
Row = tuple[str, pathlib.Path, str, pathlib.Path | None]  # kind, what is damaged, modality, the file that is read


def write(folder: pathlib.Path) -> Iterator[Row]:
    """Writes the files, each with what belongs to it in a folder of its own, and yields them."""

    def place(name: str) -> pathlib.Path:
        home = folder / str(len(list(folder.iterdir())))
        home.mkdir()
        return home / name

    for kind, name in DICOM.items():
        path = place("a.dcm")
        shutil.copy(str(get_testdata_file(name, download=False)), path)
        yield kind, path, "ct" if kind.endswith("CT") else "mr", None
    for kind, change in (("DICOM, deflated", deflate), ("DICOM, JPEG", jpeg)):
        change(path := place("a.dcm"))
        yield kind, path, "mr", None
    yield from volumes(place)
    yield from pictures(place)


def deflate(path: pathlib.Path) -> None:
    """Writes a deflated MR."""
    dataset = dcmread(str(get_testdata_file("MR_small.dcm", download=False)))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)


def jpeg(path: pathlib.Path) -> None:
    """Writes an MR of 8 bits as baseline JPEG."""
    dataset = dcmread(str(get_testdata_file("MR_small.dcm", download=False)))
    Image.fromarray((dataset.pixel_array // 8).clip(0, 255).astype(np.uint8)).save(path, "JPEG")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = encapsulate([path.read_bytes()])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(path)


def volumes(place: Callable[[str], pathlib.Path]) -> Iterator[Row]:
    """Writes volumes in sagittal slices: a CT's disc in air."""
    y, x = np.mgrid[-1:1:20j, -1:1:16j]
    disc = np.where(x**2 + y**2 < 0.7, 40, -1000)
    volume = (disc.T[:, :, None] + np.arange(10)).astype(np.int16)
    for kind, name, image in (
        ("NIfTI", "a.nii", nibabel.Nifti1Image(volume, AFFINE)),
        ("NIfTI, gzip", "a.nii.gz", nibabel.Nifti1Image(volume, AFFINE)),
        ("NIfTI-2", "a.nii", nibabel.Nifti2Image(volume.astype(np.float32), AFFINE)),
        ("NIfTI, pair", "a.hdr", nibabel.Nifti1Pair(volume, AFFINE)),
        ("Analyze", "a.hdr", nibabel.AnalyzeImage(volume, AFFINE)),
        ("MGH", "a.mgh", nibabel.MGHImage(volume, AFFINE)),
        ("MGH, gzip", "a.mgz", nibabel.MGHImage(volume, AFFINE)),
    ):
        image.to_filename(path := place(name))
        yield kind, path, "mr" if kind.startswith("NIfTI-2") else "ct", None
    image = SimpleITK.GetImageFromArray(volume)
    for kind, name, packed in (
        ("MetaImage", "a.mha", False),
        ("MetaImage, packed", "a.mha", True),
        ("MetaImage, pair", "a.mhd", False),
        ("NRRD", "a.nrrd", False),
        ("NRRD, packed", "a.nrrd", True),
        ("NRRD, pair", "a.nhdr", False),
    ):
        SimpleITK.WriteImage(image, str(path := place(name)), packed)
        yield kind, path, "ct", None


def pictures(place: Callable[[str], pathlib.Path]) -> Iterator[Row]:
    """Writes pictures of each kind and depth."""
    levels = np.add.outer(np.arange(24), 4 * np.arange(32)).astype(np.uint8)
    grey, deep = Image.fromarray(levels), Image.fromarray(levels.astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x112] = 6
    for kind, name, image, options in (
        ("PNG", "a.png", grey, {}),
        ("PNG, 16 bits", "a.png", deep, {}),
        ("PNG, palette", "a.png", grey.convert("P"), {"transparency": 3}),
        ("PNG, alpha", "a.png", grey.convert("RGBA"), {}),
        ("JPEG", "a.jpg", grey, {"exif": turned}),
        ("JPEG, progressive", "a.jpg", grey.convert("CMYK"), {"progressive": True}),
        ("BMP", "a.bmp", grey, {}),
        ("TIFF", "a.tif", deep, {}),
        ("TIFF, LZW", "a.tif", grey.convert("RGB"), {"compression": "tiff_lzw"}),
    ):
        image.save(path := place(name), **options)
        yield kind, path, "ct", None
