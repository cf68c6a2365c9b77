"""Each kind of file comes back as its own kind, on its own grid, in the units it states."""

import gzip
import pathlib
import shutil
import subprocess

import nibabel
import numpy as np
import pydicom
import pytest
from fakes import SIZE, WINDOW, run, translator
from PIL import Image
from pydicom import examples
from pydicom.data import get_testdata_file

from fedjax_mri.data.files import resample
from fedjax_mri.data.phantom.scanner import show_mr

RAMP = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)


def example(name: str) -> pathlib.Path:
    return pathlib.Path(str(get_testdata_file(name, download=False)))


@pytest.mark.parametrize(("mode", "full"), [("L", 255), ("I;16", 65535)])
def test_a_png_is_the_window_of_the_run(tmp_path, mode, full) -> None:
    levels = np.rint(RAMP * full).astype(np.uint8 if full == 255 else np.uint16)
    Image.fromarray(levels).save(tmp_path / "ct.png")
    assert run([tmp_path / "ct.png"], tmp_path / "out") == ((1, 0), [])
    made = Image.open(tmp_path / "out" / "ct.png")
    assert made.mode == mode and made.format == "PNG"
    np.testing.assert_allclose(np.asarray(made, np.float64), full - levels.astype(np.float64), atol=0.51 + full * 1e-6)


def test_a_jpeg_of_another_size_keeps_it(tmp_path) -> None:
    picture = np.tile(np.linspace(40, 200, 48), (20, 1)).astype(np.uint8)
    Image.fromarray(picture).convert("RGB").save(tmp_path / "ct.JPEG", "JPEG", quality=100)
    run([tmp_path / "ct.JPEG"], tmp_path / "out")
    made = Image.open(tmp_path / "out" / "ct.JPEG")
    assert (made.format, made.size, made.mode) == ("JPEG", (48, 20), "L")
    inner = (slice(2, -2), slice(4, -4))  # away from the edges, of which bilinear weights know one side
    np.testing.assert_allclose(np.asarray(made, np.float32)[inner], 255.0 - picture[inner], atol=4)


def test_there_and_back_on_the_grid_keeps_a_ramp_and_its_place() -> None:
    image = np.add.outer(np.arange(40), 2 * np.arange(24)).astype(np.float32)
    there = resample.fit(image, (16, 16), -1.0)
    assert (there[:, :3] == -1).all() and (there[:, -3:] == -1).all() and (there[:, 3:13] >= 0).all()
    np.testing.assert_allclose(resample.unfit(there, image.shape)[4:-4, 4:-4], image[4:-4, 4:-4], atol=0.2)
    np.testing.assert_array_equal(resample.unfit(resample.fit(image, image.shape, 0.0), image.shape), image)


def test_pictures_stay_as_they_are_for_a_run_without_a_window(tmp_path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 51, np.uint8)).save(tmp_path / "mr.png")
    seen = []
    fake = translator(None)._replace(draw=lambda to, x, sample: seen.append(x) or x)
    run([tmp_path / "mr.png"], tmp_path / "out", "ct", fake=fake)
    np.testing.assert_allclose(seen[0], 0.2, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "mr.png")), 51)


def test_mr_of_any_scale_is_brought_to_one_as_the_phantom_s(tmp_path) -> None:
    magnitude = (700 * RAMP).astype(np.int16)[:, :, None]
    nibabel.Nifti1Image(magnitude, np.diag([-1, -1, 1, 1])).to_filename(tmp_path / "mr.nii")
    run([tmp_path / "mr.nii"], tmp_path / "out", "ct")
    wanted = 1000 - 2000 * np.asarray(show_mr(magnitude[..., 0].astype(np.float32)))
    np.testing.assert_allclose(nibabel.load(tmp_path / "out" / "mr.nii").get_fdata()[..., 0], wanted, atol=0.6)


AFFINES = {
    "axial": np.diag([-1.0, -1.0, 2.0, 1.0]),
    "coronal, oblique": np.array([[0.9, 0.1, 0, 5], [0.1, 0, 0.9, -7], [0, -1.1, 0.1, 11], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize(("kind", "ending"), [(nibabel.Nifti1Image, ".nii.gz"), (nibabel.Nifti2Image, ".nii")])
def test_a_nifti_volume_keeps_its_grid(tmp_path, name, kind, ending) -> None:
    """Every voxel is made of its own source: position by position the made is the linear map of what was there."""
    hounsfield = np.round(np.random.default_rng(0).uniform(-900, 900, (SIZE, SIZE, SIZE))).astype(np.int16)
    source = kind(hounsfield, AFFINES[name])
    source.set_qform(None, 0)
    source.header.set_xyzt_units("mm")
    source.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"who was scanned"))
    source.to_filename(tmp_path / f"a{ending}")
    assert run([tmp_path / f"a{ending}"], tmp_path / "mr") == ((1, 0), [])
    made = nibabel.load(tmp_path / "mr" / f"a{ending}")
    np.testing.assert_array_equal(made.affine, source.affine)
    for field in ("pixdim", "qform_code", "sform_code", "xyzt_units", "dim"):
        np.testing.assert_array_equal(made.header[field], source.header[field], err_msg=field)
    assert type(made) is kind and made.get_data_dtype() == np.float32 and not made.header.extensions
    assert b"linear: ct to mr" in bytes(made.header["descrip"])
    np.testing.assert_allclose(made.get_fdata(), 0.5 - hounsfield / 2000, atol=1e-5)


def test_hu_in_a_nifti_volume_are_int16_with_slope_one(tmp_path) -> None:
    nibabel.Nifti1Image(np.tile(RAMP, (3, 1, 1)).T.copy(), np.eye(4)).to_filename(tmp_path / "mr.nii.gz")
    run([tmp_path / "mr.nii.gz"], tmp_path / "ct", "ct", samples=3)
    raw = gzip.decompress((tmp_path / "ct" / "mr.nii.gz").read_bytes())
    header = nibabel.Nifti1Header(raw[:348])
    assert header.get_data_dtype() == np.int16
    assert (float(header["scl_slope"]), float(header["scl_inter"])) == (1.0, 0.0)
    spread = nibabel.load(tmp_path / "ct" / "mr_std.nii.gz")
    assert spread.get_data_dtype() == np.float32
    np.testing.assert_allclose(spread.get_fdata(), 20.0, rtol=1e-3)  # of 0, 20 and 40


def test_a_ct_slice_becomes_a_derived_mr_object(tmp_path) -> None:
    shutil.copy(example("CT_small.dcm"), tmp_path / "a")
    shutil.copy(example("CT_small.dcm"), tmp_path / "b")
    assert run([tmp_path / "a", tmp_path / "b"], tmp_path / "out") == ((2, 0), [])
    source, made, other = examples.ct, *(pydicom.dcmread(tmp_path / "out" / name) for name in "ab")
    for name in (
        *("PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"),
        *("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient", "PatientPosition"),
        *("InstanceNumber", "Rows", "Columns"),
    ):
        assert made[name].value == source[name].value, name
    assert made.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert made.SOPClassUID == pydicom.uid.MRImageStorage and made.Modality == "MR"
    assert list(made.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert {made.SOPInstanceUID, made.SeriesInstanceUID}.isdisjoint({source.SOPInstanceUID, source.SeriesInstanceUID})
    assert other.SeriesInstanceUID == made.SeriesInstanceUID
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert made.SeriesDescription == "linear: MR from CT" and "linear" in made.DerivationDescription
    assert "KVP" not in made and "InstitutionName" not in made and "AdditionalPatientHistory" not in made
    assert not any(element.tag.is_private for element in made)
    assert (made.RepetitionTime, made.EchoTime, made.ScanningSequence) == (None, None, "RM")
    small = resample.fit(pydicom.pixels.apply_modality_lut(source.pixel_array, source), (SIZE, SIZE), 0.0)
    wanted = resample.unfit(np.clip(0.5 - np.maximum(small, -1024) / 2000, 0, 1), (128, 128))
    np.testing.assert_allclose(made.pixel_array / 4095, wanted, atol=2e-3)


def test_each_command_makes_a_series_of_its_own_and_deviations_another(tmp_path) -> None:
    for out in ("one", "two"):
        run([example("CT_small.dcm")], tmp_path / out, samples=2)
    made = [pydicom.dcmread(path) for path in sorted(tmp_path.glob("*/*.dcm"))]
    assert len(made) == 4 and len({one.SeriesInstanceUID for one in made}) == 4
    assert len({one.SOPInstanceUID for one in made}) == 4
    assert made[1].SeriesDescription == "linear: standard deviation of MR from CT"
    np.testing.assert_allclose(made[1].pixel_array[60:70, 60:70] / 4095, 0.01 / 2**0.5, atol=2e-4)


def test_an_mr_slice_becomes_a_derived_ct_object_in_hu(tmp_path) -> None:
    source = examples.mr
    source.SpecificCharacterSet, source.PatientName = "ISO_IR 100", "Müller^Zoë"
    source.save_as(tmp_path / "mr.dcm")
    run([tmp_path / "mr.dcm"], tmp_path / "out", "ct")
    made = pydicom.dcmread(tmp_path / "out" / "mr.dcm")
    assert (made.SOPClassUID, made.Modality) == (pydicom.uid.CTImageStorage, "CT")
    assert (made.RescaleSlope, made.RescaleIntercept, made.RescaleType) == (1, 0, "HU")
    assert (made.PatientName, made.SpecificCharacterSet) == ("Müller^Zoë", "ISO_IR 192")
    assert made.KVP is None and made["KVP"].VR == "DS" and list(made.ImageType)[2] == "AXIAL"
    seen = resample.fit(source.pixel_array, (SIZE, SIZE), 0.0)
    wanted = resample.unfit(1000 - 2000 * np.asarray(show_mr(np.maximum(seen, np.float32(0)))), (64, 64))
    np.testing.assert_allclose(made.pixel_array, wanted, atol=0.6)
    assert made.WindowWidth == WINDOW[1] - WINDOW[0]


def test_a_slice_of_no_known_place_becomes_a_secondary_capture(tmp_path) -> None:
    source = examples.mr
    del source.FrameOfReferenceUID
    source.save_as(tmp_path / "mr.dcm")
    run([tmp_path / "mr.dcm"], tmp_path / "out", "ct", fake=translator(None)._replace(draw=lambda to, x, sample: x))
    made = pydicom.dcmread(tmp_path / "out" / "mr.dcm")
    assert made.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage and made.ConversionType == "SYN"
    assert list(made.ImageType) == ["DERIVED", "SECONDARY"] and made.RescaleType == "US"
    assert pydicom.pixels.apply_modality_lut(made.pixel_array, made).max() <= 1.0001


@pytest.mark.skipif(not shutil.which("dcmdump"), reason="needs dcmtk")
def test_dcmdump_has_nothing_to_say(tmp_path) -> None:
    run([example("CT_small.dcm")], tmp_path, samples=2)
    for path in tmp_path.glob("*.dcm"):
        done = subprocess.run(["dcmdump", str(path)], capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == ""
