"""DICOM as scanners and archives write it: series, many frames, compression, and images that are no magnitude."""

import pathlib
import subprocess
import sys

import numpy as np
import phantom_dicom
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import dicom_decoder, discover, read
from fedjax_mri.data.files.dicom import recognizes
from fedjax_mri.data.files.scan import Conversion, Limits

SIZE = 24
RNG = np.random.default_rng(0)


def patient(name: str = "S01P001", site: int = 0, depth: int = 3) -> phantom_dicom.Patient:
    """A patient whose voxels all differ: MR of 0..1, and CT in steps of 1 HU."""
    mr = RNG.permutation(depth * SIZE * SIZE).reshape(depth, SIZE, SIZE) / (depth * SIZE * SIZE)
    return phantom_dicom.Patient(name, "glioma", site, 2.5, 3.0, {"mr": mr, "ct": np.rint(1900 * mr - 1000)})


def save(dataset: Dataset, path: pathlib.Path, **changes) -> pathlib.Path:
    for name, value in changes.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def volume(item, modality: str = "mr"):
    return read.read_scan(item, modality, Limits())


@pytest.mark.parametrize("as_nifti", [False, True])
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_patients_of_the_phantom_are_read_as_they_were(tmp_path, modality, as_nifti) -> None:
    """Of three institutions that store differently: values, spacing, and from DICOM who was scanned where."""
    made = [patient(f"S0{site + 1}P001", site) for site in range(3)]
    for one in made:
        phantom_dicom.write(tmp_path, one, modality, as_nifti)
    items, lines = discover.items(tmp_path)
    assert len(items) == 3 and lines == []
    for item, one in zip(items, made):
        found, wanted = volume(item, modality), one.images[modality]
        middle = (slice(None), *[slice(SIZE // 4, -SIZE // 4)] * 2)  # within the circle outside of which CT is padding
        scale = 1 if modality == "ct" else 400 + 700 * one.site
        np.testing.assert_allclose(found.voxels[middle], scale * wanted[middle], atol=0.51)
        assert found.voxels.min() >= -1000 and found.units == ("hu" if modality == "ct" else "arbitrary")
        np.testing.assert_allclose(found.spacing, (5, 2.5, 2.5))
        if not as_nifti:
            assert (found.origin.patient, found.origin.site) == (one.name, f"Hospital {one.site + 1}")
            assert found.origin.modality == modality and found.origin.frame
            assert bool(found.notes) == (modality == "ct" and one.site == 1)


@pytest.mark.slow
def test_the_script_writes_patients_of_the_phantom(tmp_path, monkeypatch) -> None:
    words = ["--sites=2", "--patients=2", "--slices=2", "--layout=modalities", "--files=mixed"]
    monkeypatch.setattr(sys, "argv", ["phantom_dicom.py", str(tmp_path), *words])
    phantom_dicom.main()
    for modality in ("ct", "mr"):
        items, lines = discover.items(tmp_path / modality)
        scans = [volume(item, modality) for item in items]
        assert [len(scan.voxels) for scan in scans] == [2] * 4 and lines == []
        assert {scan.origin.site for scan in scans} == {"Hospital 1", "Hospital 2", ""}


def test_a_series_is_in_order_of_position_and_its_localizer_and_copies_apart(tmp_path) -> None:
    one = patient(depth=4)
    for place, name in enumerate("dbca"):
        save(phantom_dicom.dicom(one, "mr", place), tmp_path / f"{name}.dcm", InstanceNumber=1)
    save(phantom_dicom.dicom(one, "mr", 0), tmp_path / "again" / "copy.dcm")
    scout = phantom_dicom.dicom(one, "mr", 1)
    scout.ImageType, scout.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [0, 1, 0, 0, 0, -1]
    save(scout, tmp_path / "scout.dcm", SOPInstanceUID="1.2.3")
    items, lines = discover.items(tmp_path)
    assert len(lines) == 1 and "1 copies of images of the same series are left out" in lines[0]
    alone, series = sorted(items, key=lambda item: len(item.paths))
    assert [path.name[0] for path in series.paths] in (list("dbca"), ["c", *"bca"])
    np.testing.assert_allclose(volume(series).voxels, np.rint(400 * one.images["mr"]))
    with pytest.raises(UserError, match="a localizer"):
        volume(alone)


def test_echoes_of_one_series_are_volumes_of_their_own(tmp_path) -> None:
    echoes = {12.0: patient(), 90.0: patient()}
    for echo, one in echoes.items():
        for place in range(3):
            made = phantom_dicom.dicom(one, "mr", place)
            save(made, tmp_path / f"{echo}_{place}.dcm", EchoTime=echo, SOPInstanceUID=f"1.2.{int(echo)}.{place}")
    items, _ = discover.items(tmp_path)
    assert [len(item.paths) for item in items] == [3, 3]
    for item, one in zip(items, echoes.values()):
        np.testing.assert_allclose(volume(item).voxels, np.rint(400 * one.images["mr"]))
    for path in tmp_path.iterdir():  # and where nothing tells them apart, they are no volume
        save(pydicom.dcmread(path), path, EchoTime=12.0)
    (item,), _ = discover.items(tmp_path)
    with pytest.raises(UserError, match="several images lie at the same place"):
        volume(item)


def enhanced(one: phantom_dicom.Patient, order: list[int]) -> Dataset:
    """An enhanced MR object with frames in that order, sagittal, each with its own position and slope."""
    made = phantom_dicom.dicom(one, "mr", 0)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del made[name]
    made.SOPClassUID, made.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.4.1", len(order)
    shared, frames = Dataset(), []
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    measures.PixelSpacing, measures.SliceThickness = [2, 3], 4
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    for place in order:
        frame, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [4 * place, -10, 20]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = place + 1, 0, "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        frames.append(frame)
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], frames
    made.PixelData = np.stack([np.rint(400 * one.images["mr"][place]) for place in order]).astype("<u2").tobytes()
    return made


def test_frames_have_their_own_geometry_and_scale_there_and_back(tmp_path) -> None:
    one, order = patient(depth=10), [3, 1, 0, 2, 9, 4, 6, 8, 5, 7]
    save(enhanced(one, order), tmp_path / "many.dcm")
    (item,), _ = discover.items(tmp_path)
    assert [name.name for name in item.names] == [f"many_{frame:04d}.dcm" for frame in range(1, 11)]
    found = volume(item)
    frames = np.rint(400 * one.images["mr"]) * np.arange(1, 11)[:, None, None]  # [left, down, back]
    np.testing.assert_allclose(found.voxels, frames[:, ::-1].transpose(1, 2, 0))
    assert found.spacing == (2, 3, 4) and found.origin.patient == one.name
    conversion = Conversion("mr", "ct", (-1000.0, 1000.0), "model", phantom_dicom.uuid.uuid4())
    made = [
        pydicom.dcmread(pydicom.filebase.DicomBytesIO(one)) for one in found.encode(conversion, found.voxels, False)
    ]
    for index, (place, dataset) in enumerate(zip(order, made, strict=True)):
        np.testing.assert_array_equal(dataset.pixel_array, frames[place])
        assert dataset.ImagePositionPatient == [4 * place, -10, 20] and dataset.PixelSpacing == [2, 3]
        assert dataset.SourceImageSequence[0].ReferencedFrameNumber == index + 1 == dataset.InstanceNumber
        assert "within the model's window, -1000 to 1000 HU" in dataset.DerivationDescription
    assert len({dataset.SOPInstanceUID for dataset in made}) == 10


def test_axial_frames_at_one_place_are_slices_in_their_order_and_no_volume(tmp_path) -> None:
    one = patient(depth=10)
    made = enhanced(one, list(range(10)))
    made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    for index, frame in enumerate(made.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 5 * (index % 2)]
    found = read.read(save(made, tmp_path / "a.dcm"), "mr", Limits())
    np.testing.assert_allclose(found.voxels, np.rint(400 * one.images["mr"]) * np.arange(1, 11)[:, None, None])
    assert len(found.notes) == 1 and "they are no volume" in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "a phase, real or imaginary image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]}, "a phase, real or imaginary image"),
        ({"ComplexImageComponent": "PHASE"}, "a phase, real or imaginary image"),
        ({"HighBit": 15}, "BitsStored 12 and HighBit 15"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
        ({"RescaleSlope": 2}, "only one of RescaleSlope and RescaleIntercept"),
        ({"PixelSpacing": [0, 1]}, "PixelSpacing is 0 x 1 mm"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.9, 0.1, 0]}, "not two directions at right angles"),
    ],
)
def test_what_is_no_magnitude_slice_is_refused_by_name(tmp_path, changes, words) -> None:
    path = save(phantom_dicom.dicom(patient(), "mr", 0), tmp_path / "a.dcm", **changes)
    with pytest.raises(UserError, match=words):
        read.read(path, "mr", Limits())


def test_a_phase_image_of_general_electric_is_refused(tmp_path) -> None:
    made = phantom_dicom.dicom(patient(), "mr", 0)
    made.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", 1)
    with pytest.raises(UserError, match="a phase, real or imaginary"):
        read.read(save(made, tmp_path / "a.dcm"), "mr", Limits())


def test_values_far_below_air_are_outside_of_the_field_of_view_though_no_padding_is_stated(tmp_path) -> None:
    one = patient(site=1)
    made = phantom_dicom.dicom(one, "ct", 0)
    del made.PixelPaddingValue
    found = read.read(save(made, tmp_path / "a.dcm"), "ct", Limits())
    assert found.voxels.min() >= -1000 and found.voxels[0, 0, 0] == -1000 and len(found.notes) == 1
    np.testing.assert_array_equal(found.voxels[0, 8:-8, 8:-8], one.images["ct"][0, 8:-8, 8:-8])


def test_padding_that_looks_like_air_stays_and_needs_no_note(tmp_path) -> None:
    made = phantom_dicom.dicom(patient(), "ct", 0)
    made.add_new("PixelPaddingValue", "US", 24)  # -1000 HU
    assert read.read(save(made, tmp_path / "a.dcm"), "ct", Limits()).notes == ()


def test_lossless_compression_changes_nothing() -> None:
    def scan(name: str):
        return read.read(pathlib.Path(str(get_testdata_file(name, download=False))), "mr", Limits())

    plain = scan("MR_small.dcm").voxels
    for kind in ("RLE", "jp2klossless", "jpeg_ls_lossless"):
        np.testing.assert_array_equal(scan(f"MR_small_{kind}.dcm").voxels, plain)
    assert len(dicom_decoder._idle) >= 1  # one process for all of them


def test_without_decoders_the_remedy_is_named(monkeypatch) -> None:
    path = pathlib.Path(str(get_testdata_file("MR_small_jp2klossless.dcm", download=False)))
    decoder = get_decoder("1.2.840.10008.1.2.4.90")
    monkeypatch.setattr(type(decoder), "available_plugins", ("pillow",))
    with pytest.raises(UserError, match=r"compressed \(JPEG 2000 .*pip install '.\[dicom\]'"):
        read.read(path, "mr", Limits())


def packed(path: pathlib.Path, side: int) -> pathlib.Path:
    """An RLE file of 8-bit pixels, each a run of its own: the slowest there is for its size."""
    made = phantom_dicom.dicom(patient(), "mr", 0)
    made.Rows = made.Columns = side
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    header = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    made.PixelData = encapsulate([header + bytes([0, 7]) * side * side])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    return save(made, path)


def test_a_decoder_that_takes_too_long_or_too_much_is_replaced(tmp_path, monkeypatch) -> None:
    large, small = packed(tmp_path / "large.dcm", 3500), packed(tmp_path / "small.dcm", SIZE)
    assert (read.read(small, "mr", Limits()).voxels == 7).all()
    for name, limit in (("SECONDS", -11), ("MEMORY", -(10**8))):  # one second and 50 MB are left
        with monkeypatch.context() as patch:
            patch.setattr(dicom_decoder, name, limit)
            with pytest.raises(UserError, match="cannot be decoded"):
                read.read(large, "mr", Limits())
        assert (read.read(small, "mr", Limits()).voxels == 7).all()


def test_a_decoder_that_dies_costs_its_file_alone(tmp_path, monkeypatch) -> None:
    path = packed(tmp_path / "a.dcm", SIZE)
    dicom_decoder.close()
    with monkeypatch.context() as patch:
        words = [sys.executable, "-c", "import sys; sys.stdin.buffer.read(50)"]
        dying = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        patch.setattr(dicom_decoder, "started", lambda: dying)
        with pytest.raises(UserError, match="the decoder failed"):
            read.read(path, "mr", Limits())
    assert (read.read(path, "mr", Limits()).voxels == 7).all()


def test_a_file_that_decodes_to_another_number_of_pixels_is_refused(tmp_path) -> None:
    made = pydicom.dcmread(str(get_testdata_file("MR_small_jp2klossless.dcm", download=False)))
    with pytest.raises(UserError, match="cannot be decoded"):
        read.read(save(made, tmp_path / "a.dcm", Rows=32), "mr", Limits())


def test_other_kinds_of_files_are_not_taken_for_dicom_without_preamble() -> None:
    for head in (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"\x1f\x8b\x08\0",
        b"\x5c\x01\0\0",
        b"NRRD0004",
        b"ObjectType",
    ):
        assert not recognizes(head + bytes(530))
    assert not recognizes(b"") and not recognizes(b"\x08\0\x05") and not recognizes(b"hello\r\n")


def test_padding_with_bits_that_no_value_has_is_background(tmp_path) -> None:
    """65535 among 12 bits: without its high bits it would be the brightest value of all."""
    one = patient()
    for modality, ground in (("mr", 0), ("ct", -1000)):
        made = phantom_dicom.dicom(one, modality, 0)
        words = np.frombuffer(made.PixelData, "<u2").reshape(SIZE, SIZE).copy()
        wanted = read.read(save(made, tmp_path / "plain.dcm"), modality, Limits()).voxels
        words[:4] = 65535
        made.PixelData = words.tobytes()
        made.add_new("PixelPaddingValue", "US", 65535)
        found = read.read(save(made, tmp_path / "padded.dcm"), modality, Limits())
        assert (found.voxels[0, :4] == ground).all() and "outside the field of view" in found.notes[0]
        np.testing.assert_array_equal(found.voxels[0, 4:], wanted[0, 4:])


def orthogonal(code: str) -> np.ndarray:
    """Directions [3, 3] along a row, down a column and from image to image; "LPS" is as `ImagePlane` has them."""
    axes = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    found = np.zeros((3, 3))
    for row, letter in enumerate(code):
        axis, sign = axes[letter]
        found[row, axis] = sign
    return found


@pytest.mark.parametrize("code", ["LPS", "RAS", "PLI", "ARS", "PIR", "AIL", "LIA", "RSP", "SLA", "IPL"])
def test_a_series_of_any_orientation_is_the_same_volume(tmp_path, code) -> None:
    """With unequal spacing, a slight tilt of the head and files in no order."""
    shape, spacing = np.array([10, 11, 12]), np.array([1.5, 2.0, 3.0])  # of axes left, back, head
    wanted = RNG.permutation(shape.prod()).reshape(shape[::-1])  # [head, back, left]
    turned, angle = np.eye(3), np.radians(8)
    turned[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    axes = orthogonal(code)
    own = np.abs(axes).argmax(1)  # the patient's axis of columns, rows and images
    stored = wanted.transpose(2, 1, 0).transpose(own)
    flips = tuple(slice(None, None, int(np.sign(axes[row, axis]))) for row, axis in enumerate(own))
    stored, sizes = stored[flips], spacing[own]
    corner = np.where(axes[range(3), own] > 0, 0, (shape[own] - 1) * sizes) @ np.abs(axes)
    for place in RNG.permutation(stored.shape[2]):
        one = phantom_dicom.Patient("S01P001", "", 0, 1.0, 3.0, {"mr": stored[:, :, place].T[None] / 400})
        made = phantom_dicom.dicom(one, "mr", 0)
        made.ImageOrientationPatient = [round(value, 6) for value in (axes[:2] @ turned).ravel()]
        made.ImagePositionPatient = [round(v, 4) for v in (corner + place * sizes[2] * axes[2]) @ turned]
        made.PixelSpacing = [sizes[1], sizes[0]]
        save(made, tmp_path / f"{place}.dcm", SOPInstanceUID=f"1.2.3.{place}", InstanceNumber=1)
    (item,), lines = discover.items(tmp_path)
    found = volume(item)
    np.testing.assert_array_equal(found.voxels, wanted)
    np.testing.assert_allclose(found.spacing, spacing[::-1], rtol=1e-3)
    assert lines == [] and found.notes == ()
