"""The difficult DICOM files of shared/cases equal the plain one, or are refused by name."""

import dataclasses
import pathlib
import sys

import numpy as np
import pydicom
import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "convert"))
from fakes import WINDOW, run

from fedjax_mri.convert.translate import Translator
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import discover, nifti, read, units
from fedjax_mri.data.files.scan import Limits, Scan

EQUAL = {  # to plain, with the note that is due, if one is
    "ct": {
        **dict.fromkeys(("d02_mono1", "d04_rle", "d05_j2k", "d06_deflated", "d07_nopreamble", "d08_nosyntax"), ""),
        **dict.fromkeys(("d09_overlaybits", "d09b_signed12", "d11e_notype", "d11g_type_lower", "d11h_slope0.5"), ""),
        "d10_pad-2000": "outside the field of view",
        "d10b_pad63536": "outside the field of view",
        **dict.fromkeys(("d14b_emptyperframe", "d14c_enhanced1frame", "d16_bigendian", "d16b_implicit"), ""),
        "d18_nogeometry": "taken as an axial slice",
        **dict.fromkeys(("d20_longDS", "d20b_commaDS", "d21_baduid", "d22_japanese", "d22b_gb18030"), ""),
        **dict.fromkeys(("d22c_wrongcharset", "d22d_nocharset", "d22e_unknowncharset"), ""),
        "d22f_baddate": "StudyDate is not valid",
        "d23_nanpos": "does not say where it lies in the patient",
        "d23b_emptyspacing": "does not say where it lies in the patient",
        "d24_decimalIS": "InstanceNumber is not valid",
    },
    "mr": {"d02_mono1": "MONOCHROME1", "d04_rle": ""},
}
REFUSED = {
    "ct/d11_norescale": "not in HU",
    "ct/d11b_slope_only": "only one of RescaleSlope and RescaleIntercept",
    "ct/d11d_slope_empty": "not in HU",
    "ct/d11f_typeUS": "not in HU",
    "ct/d26_truncated": "cut short",
    "ct/d31_palette": "PALETTE COLOR",
    "ct/d39_floatpixels": "floating-point",
    "mr/d31b_rgb": "pixels are RGB",
    "mr/d33_mosaic": "a mosaic",
}
SQUARE = ("d01_base", "d17_anisotropic")
BUNDLED = {  # of pydicom's own files: the shape of those that are read, words of those that are not
    "693_J2KI.dcm": (1, 512, 512),
    "CT_small.dcm": (1, 128, 128),
    "ExplVR_BigEndNoMeta.dcm": "holds no image, but RTPLAN",
    "ExplVR_LitEndNoMeta.dcm": "holds no image, but RTPLAN",
    "J2K_pixelrep_mismatch.dcm": (1, 512, 512),
    "JPEG2000.dcm": "its modality is NM",
    "JPGExtended.dcm": "its modality is NM",
    **{f"MR_small{kind}.dcm": (1, 64, 64) for kind in ("", "_RLE", "_jp2klossless", "_jpeg_ls_lossless")},
    **{f"MR_small{kind}.dcm": (1, 64, 64) for kind in ("_bigendian", "_implicit", "_expb", "_padded")},
    "MR_truncated.dcm": "cut short",
    "badVR.dcm": "its modality is RTDOSE",
    "examples_overlay.dcm": (1, 300, 484),
    "examples_palette.dcm": "its modality is US",
    "image_dfl.dcm": "its modality is OT",
    "meta_missing_tsyntax.dcm": "its modality is not stated",
    "no_meta.dcm": "of no kind that can be read",
    "no_meta_group_length.dcm": "holds no image",
    "rtdose.dcm": "its modality is RTDOSE",
    "rtstruct.dcm": "holds no image, but RTSTRUCT",
    "test-SR.dcm": "holds no image, but SR",
    "waveform_ecg.dcm": "holds no image, but ECG",
}


def scan(path: pathlib.Path, modality: str) -> Scan:
    return read.read(path, modality, Limits())


@pytest.mark.parametrize("modality", EQUAL)
def test_what_is_odd_but_sound_equals_the_plain_file(cases, modality, recwarn) -> None:
    folder = cases("d_dicom") / "dicom" / modality
    plain = scan(folder / "d01_base.dcm", modality)
    assert plain.notes == () and plain.spacing == (5, 1, 1)
    for name, words in EQUAL[modality].items():
        found = scan(folder / f"{name}.dcm", modality)
        np.testing.assert_array_equal(found.voxels, plain.voxels, err_msg=name)
        assert words in " ".join(found.notes) and bool(words) == bool(found.notes), name
        assert found.units == plain.units
    assert not recwarn.list


def test_what_is_not_sound_is_refused_by_name(cases, recwarn) -> None:
    for name, words in REFUSED.items():
        with pytest.raises(UserError) as refused:
            scan(cases("d_dicom") / "dicom" / f"{name}.dcm", name[:2])
        assert words in str(refused.value) and "\n" not in str(refused.value), name
    assert not recwarn.list


def test_values_follow_the_file_s_own_rule(cases) -> None:
    """A modality table gives HU; Philips' slope scales MR; a table of pixels of 1 x 2 mm has its spacing."""
    ct, mr = (cases("d_dicom") / "dicom" / name for name in ("ct", "mr"))
    plain = scan(ct / "d01_base.dcm", "ct").voxels
    np.testing.assert_array_equal(scan(ct / "d37_modlut.dcm", "ct").voxels, plain + 1024)
    wanted = scan(mr / "d01_base.dcm", "mr").voxels * 1.08083028083028
    np.testing.assert_allclose(scan(mr / "d12_philips.dcm", "mr").voxels, wanted, rtol=1e-6)
    assert scan(ct / "d17_anisotropic.dcm", "ct").spacing == (5, 1, 2)
    frames = scan(ct / "d14_multiframe.dcm", "ct")
    np.testing.assert_array_equal(frames.voxels, np.repeat(plain, 2, 0))
    assert "does not say where it lies" in frames.notes[0]


def test_files_that_pydicom_brings_are_read_or_refused_by_name(cases, recwarn) -> None:
    folder = cases("d_dicom") / "dicom" / "pyd"
    made = {path.name for path in folder.iterdir()} - {"zipMR.gz"}
    assert made <= BUNDLED.keys() and len(made) > 25
    plain = scan(folder / "MR_small.dcm", "mr").voxels
    for name in sorted(made):
        wanted = BUNDLED[name]
        if isinstance(wanted, str):
            with pytest.raises(UserError) as refused:
                scan(folder / name, "")
            assert wanted in str(refused.value), name
            continue
        found = scan(folder / name, "")
        assert found.voxels.shape == wanted, name
        if name.startswith("MR_small"):
            np.testing.assert_array_equal(found.voxels, plain, err_msg=name)
    assert not recwarn.list


def identity(size: int) -> Translator:
    """MR to HU, 1 for 1, and CT to MR, over the window."""

    def draw(to: str, source: np.ndarray, sample: int | None) -> np.ndarray:
        return 1000 * source if to == "ct" else (source - WINDOW[0]) / (WINDOW[1] - WINDOW[0])

    return Translator((size, size, 1), WINDOW, "identity", draw, 0)


def test_every_orientation_is_the_same_head(cases) -> None:
    folder = cases("d_orient") / "orient"
    usual, turned = (scan(folder / f"{name}.dcm", "mr") for name in ("ax_usual", "ax_turned"))
    np.testing.assert_array_equal(turned.voxels, usual.voxels)
    volume = nifti.read(folder / "vol_lps.nii.gz", "mr", Limits())
    np.testing.assert_array_equal(volume.voxels, np.load(folder.parent / "vol.npy"))
    (item,) = discover.items(folder / "sag")[0]
    found = read.read_scan(item, "mr", Limits())
    np.testing.assert_array_equal(found.voxels, volume.voxels)
    assert found.spacing == volume.spacing == (1, 1, 1) and found.origin.modality == "mr"
    with pytest.raises(UserError, match="a single sagittal or coronal image"):
        scan(folder / "sag" / "i030.dcm", "mr")


def test_a_sagittal_series_comes_back_as_one(cases, tmp_path) -> None:
    """Each image has the place of its own source, and what the model made of the axial slices that it was cut to."""
    folder = cases("d_orient") / "orient"
    assert run([folder / "sag", folder / "vol_lps.nii.gz"], tmp_path, "ct", fake=identity(64)) == ((65, 0), [])
    volume = nifti.read(tmp_path / "vol_lps.nii.gz", "ct", Limits()).voxels
    assert volume.max() > 500
    made = sorted(tmp_path.glob("i*.dcm"))
    assert len(made) == 64
    for x, path in enumerate(made):
        source, dataset = pydicom.dcmread(folder / "sag" / path.name), pydicom.dcmread(path)
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
            assert dataset[name].value == source[name].value, name
        assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        np.testing.assert_array_equal(dataset.pixel_array, volume[::-1, :, x])
    assert len({pydicom.dcmread(path).SeriesInstanceUID for path in made}) == 1


def test_gap_and_tilt_are_said_and_each_slice_keeps_its_place(cases, tmp_path) -> None:
    folder = cases("s_tilt") / "tilt"
    counts, said = run([folder], tmp_path, fake=identity(128))
    assert counts == (6, 0) and len(said) == 1
    assert "2.415 to 9.659 mm apart and the gantry was tilted by 15 degrees" in said[0]
    for path in folder.iterdir():
        source, made = pydicom.dcmread(path), pydicom.dcmread(tmp_path / path.name)
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(made[name].value, source[name].value, rtol=1e-9, err_msg=name)
        shown = (np.clip(source.pixel_array - 1024.0, -1000, 1000) + 1000) / 2000
        np.testing.assert_allclose(made.pixel_array / 4095, shown, atol=2e-4)
    (item,), _ = discover.items(folder)
    volume = read.read_scan(item, "ct", Limits())
    assert [path.name for path in item.paths] == [f"{i}.dcm" for i in range(6)]
    assert volume.voxels.shape == (6, 128, 128) and "tilted by 15 degrees" in volume.notes[0]


def test_results_in_odd_cases_are_valid_dicom(cases, tmp_path, recwarn) -> None:
    """What the source may not say is left empty; where it has no place, the result is a Secondary Capture."""
    folder = cases("d_dicom") / "dicom" / "ct"
    names = [path.name for path in sorted(folder.iterdir()) if path.stem in EQUAL["ct"]] + ["d14_multiframe.dcm"]
    counts, said = run([folder / name for name in names], tmp_path, fake=identity(128))
    assert counts == (len(names), 0) and all(line.startswith(str(folder)) or " more: " in line for line in said)
    made = {path.name: pydicom.dcmread(path) for path in tmp_path.iterdir()}
    assert made.keys() == {*names, "d14_multiframe_0001.dcm", "d14_multiframe_0002.dcm"} - {"d14_multiframe.dcm"}
    captures = {name for name, one in made.items() if one.SOPClassUID.name == "Secondary Capture Image Storage"}
    assert {name.split("_")[0] for name in captures} == {"d14", "d18", "d23", "d23b"}
    assert made["d14_multiframe_0001.dcm"].SOPInstanceUID != made["d14_multiframe_0002.dcm"].SOPInstanceUID
    assert made["d20_longDS.dcm"].PixelSpacing == [0.48828125, 0.48828125]
    assert made["d20b_commaDS.dcm"].PixelSpacing == [0.488, 0.488]
    assert made["d22_japanese.dcm"].PatientName == "Yamada^Tarou=山田^太郎"
    assert made["d22b_gb18030.dcm"].PatientName == "王^小东"
    assert made["d24_decimalIS.dcm"].InstanceNumber is None and not made["d22f_baddate.dcm"].StudyDate
    frame = made["d14_multiframe_0002.dcm"]
    assert frame.SourceImageSequence[0].ReferencedFrameNumber == 2 and frame.InstanceNumber == 2
    assert not recwarn.list


def test_a_cd_is_converted_as_far_as_it_holds_images(cases, tmp_path) -> None:
    folder = cases("d_folder") / "cd"
    counts, said = run([folder], tmp_path, fake=identity(128))
    assert counts == (8, 6)
    lines = dict(line.removeprefix(str(folder)).lstrip("/").split(": ", 1) for line in said)
    assert lines.pop("") == (
        "left out what is no image of a kind that can be read: 1 .txt, 1 .db, 1 without ending, 1 .inf, 1 .zip"
    )
    patient = "DICOM/PA000001/ST000001"
    wanted = {
        "dangling.dcm": "no such file",
        "pipe.dcm": "not a regular file",
        f"{patient}/RD000001": "its modality is RTDOSE",
        f"{patient}/SR000001": "holds no image, but SR",
        f"{patient}/SE000003/IM000000": "its modality is MR",
        f"{patient}/SE000004/IM000000": "a localizer",
    }
    assert lines.keys() == wanted.keys() and all(words in lines[name] for name, words in wanted.items())
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    series = {f"{patient}/SE00000{series}/IM00000{image}" for series in (1, 2) for image in range(3)}
    assert made == {*series, "Größe 影像/scan 1 (copy).DCM", "odd\nname.dcm"}


def test_copies_in_a_folder_are_converted_each_and_count_once_in_a_volume(cases, tmp_path) -> None:
    folder = cases("d_folder") / "dup"
    assert run([folder], tmp_path, fake=identity(128))[0] == (4, 0)
    items, lines = discover.items(folder)
    assert len(lines) == 1 and "1 copies" in lines[0] and sum(len(item.paths) for item in items) == 3


def test_limits_hold_for_what_is_packed(cases) -> None:
    folder = cases("d_dicom") / "dicom" / "ct"
    small = dataclasses.replace(Limits(), bytes=20_000)
    for name in ("d06_deflated", "d04_rle", "d05_j2k"):
        with pytest.raises(UserError, match=r"raise --limits\.bytes"):
            read.read(folder / f"{name}.dcm", "ct", small)


def test_pixels_that_are_not_square_keep_the_head_s_proportions(cases) -> None:
    """128 x 64 pixels of 1 x 2 mm are seen like 128 x 128 of 1 mm, but for what lies between them."""
    folder, window = cases("d_dicom") / "dicom" / "ct", WINDOW
    plain, wide = (units.to_model(scan(folder / f"{name}.dcm", "ct"), "ct", window, (64, 64)) for name in SQUARE)
    apart = np.abs(plain - wide)
    assert apart.mean() < 30 and np.quantile(apart, 0.9) < 50 and plain.std() > 400
