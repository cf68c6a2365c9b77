"""The difficult volumes of ../shared/cases: each gives the same pixels as the plain file, or one line."""

import gzip
import pathlib
import shutil
import sys

import nibabel
import numpy as np
import pytest
from fakes import run

from fedjax_mri.convert import command
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import scans
from fedjax_mri.data.files.read import read
from fedjax_mri.data.files.scan import Limits, Scan
from fedjax_mri.data.files.units import to_model
from fedjax_mri.run import config

WINDOW = (-1000.0, 1000.0)
PLAIN = [  # of MR: equal to n01_base
    *("n03_oblique20", "n03b_oblique45", "n03c_double", "n03d_negdet", "n04_singleton4d", "n04b_5d", "n05b_qonly"),
    *("n05c_q_s_differ", "n05e_shear_gantry", "n05f_metres", "n06_int64", "n06c_float64", "n06d_uint16"),
    *("n07_trailing", "n07b_zeros", "n07c_notgz", "n07f_multistream", "n08_bigendian", "n09c_nifti2"),
    *("n11_nan_outside", "n19_dim0_7", "n19c_pixdim_neg", "n19d_intent_label"),
]
REFUSED = {  # of MR -> what is said
    "n04c_two.nii.gz": "2 volumes of shape (64, 64, 6): give one volume a file",
    "n04f_rgb4d.nii.gz": "3 volumes of shape (64, 64, 6): give one volume a file",
    "n05_noform.nii.gz": "does not say how it lies in the patient: write its sform or qform",
    "n05d_zero_sform.nii": "its affine has no volume",
    "n06e_rgb24.nii.gz": "give real numbers",
    "n06f_complex.nii.gz": "voxels of type complex64: give real numbers",
    "n07e_cut.nii.gz": "its packed content was cut short: copy it again",
    "n07g_badcrc.nii.gz": "its packed content is damaged (Error -3 while decompressing data: incorrect data check)",
    "n10.mha": "does not say how it lies in the patient: write its TransformMatrix",
    "n10b.nrrd": "does not say how it lies in the patient: write its space and space directions",
    "n19b_dim4_0.nii.gz": "its header claims the shape (64, 64, 6, 0)",
}
NOTED = {  # of MR -> what is said of it
    "n03_oblique20.nii.gz": "tilted by 20 degrees",
    "n05c_q_s_differ.nii.gz": "its sform says LPS and its qform RPS: the sform counts",
    "n05e_shear_gantry.nii.gz": "tilted by 22 degrees",
    "n05f_metres.nii.gz": "its voxels measure 5e+03 x 1e+03 x 1e+03 mm: check the unit",
    "n07_trailing.nii.gz": "something follows its packed content",
    "n09b_analyze.hdr": "does not say which side is left",
    "n11_nan_outside.nii.gz": "14152 of 24576 voxels, all around the head, are NaN",
    "n19d_intent_label.nii.gz": "holds labels",
}


@pytest.fixture(scope="module")
def mr(cases) -> pathlib.Path:
    return cases("n_nifti") / "nii" / "mr"


@pytest.fixture(scope="module")
def ct(cases) -> pathlib.Path:
    return cases("n_nifti") / "nii" / "ct"


def scan(path: pathlib.Path, modality: str = "mr", **more) -> Scan:
    return read(path, modality, Limits(), **more)


def seen(path: pathlib.Path, modality: str = "mr", size: int = 64) -> np.ndarray:
    """The slices as a model takes them."""
    return to_model(scan(path, modality), modality, WINDOW, (size, size))


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_stored_in_another_way_gives_the_plain_voxels(mr, name) -> None:
    found, plain = scan(mr / f"{name}.nii.gz"), scan(mr / "n01_base.nii.gz")
    np.testing.assert_array_equal(found.voxels, plain.voxels)
    np.testing.assert_allclose(seen(mr / f"{name}.nii.gz"), seen(mr / "n01_base.nii.gz"), atol=1e-6)
    times = 1000 if name == "n05f_metres" else 1
    if name != "n05e_shear_gantry":  # whose slices lie obliquely to their normal
        np.testing.assert_allclose(found.spacing, [5 * times, times, times], rtol=1e-6)


def test_other_names_and_kinds_give_the_plain_voxels(mr) -> None:
    plain = scan(mr / "n01_base.nii.gz").voxels
    for name in ("n07d_gz.nii", "n07h_trailing_plain.nii", "n09_pair.hdr", "n10c.mgz"):
        np.testing.assert_array_equal(scan(mr / name).voxels, plain, err_msg=name)
    # Analyze has no form: its usual axes are to the left, front and head.
    np.testing.assert_array_equal(scan(mr / "n09b_analyze.hdr").voxels, plain[:, ::-1])
    np.testing.assert_allclose(scan(mr / "n06b_uint8.nii.gz").voxels, plain // 4)
    for name in ("n04d_2d", "n04e_oneslice"):
        np.testing.assert_array_equal(scan(mr / f"{name}.nii.gz").voxels, plain[2:3], err_msg=name)
    np.testing.assert_array_equal(scan(mr / "n06h_bool_uint8mask.nii.gz").voxels, plain > 0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_volume_is_one_line(mr, name) -> None:
    with pytest.raises(UserError) as refused:
        scan(mr / name)
    assert REFUSED[name] in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", NOTED)
def test_what_is_doubtful_is_said(mr, name) -> None:
    assert NOTED[name] in "; ".join(scan(mr / name).notes)


def test_nothing_is_said_of_what_is_plain(mr, ct) -> None:
    for path in (mr / "n01_base.nii.gz", ct / "n01_base.nii.gz", ct / "n02e_slope1_inter-1024.nii.gz"):
        assert scan(path, path.parent.name).notes == ()


@pytest.mark.parametrize("name", ["n02_slope_nan", "n02b_slope_0", "n02c_slope_inf", "n02d_slope_nan_inter"])
def test_a_slope_that_is_none_is_one(ct, name) -> None:
    found = scan(ct / f"{name}.nii.gz", "ct")
    np.testing.assert_array_equal(found.voxels, scan(ct / "n01_base.nii.gz", "ct").voxels)
    assert ("not finite" in "".join(found.notes)) is (name in ("n02c_slope_inf", "n02d_slope_nan_inter"))


def test_a_slope_and_an_intercept_count(ct) -> None:
    found = scan(ct / "n02e_slope1_inter-1024.nii.gz", "ct")
    np.testing.assert_array_equal(found.voxels, scan(ct / "n01_base.nii.gz", "ct").voxels)


def test_an_offset_of_1024_is_refused_or_taken_away(ct) -> None:
    path = ct / "n14_offset1024_unscaled.nii.gz"
    with pytest.raises(UserError, match=r"are HU with an offset: give --ct-offset .* -1024"):
        scan(path, "ct")
    found = scan(path, "ct", ct_offset=-1024.0)
    assert found.units == "hu"
    np.testing.assert_array_equal(found.voxels, scan(ct / "n01_base.nii.gz", "ct").voxels)


def test_z_scores_of_all_voxels_look_as_the_magnitude_they_are_made_of(mr) -> None:
    np.testing.assert_allclose(seen(mr / "n15b_zscore_all.nii.gz"), seen(mr / "n01_base.nii.gz"), atol=1e-5)


def test_z_scores_of_a_head_alone_lose_nothing_of_it(mr) -> None:
    found, plain = seen(mr / "n15_zscore.nii.gz"), seen(mr / "n01_base.nii.gz")
    assert not found[plain == 0].any()  # the ground, whose value lies in the middle of the head's
    inside = plain > plain[plain > 0].min() + 1e-3
    assert (found[inside] > 0.2).all()  # where negative values count as 0, half of them are
    np.testing.assert_allclose(found, plain, atol=0.07)


def test_thick_sagittal_slices_are_resampled_by_mm(mr) -> None:
    thick, fine = (mr / f"{name}.nii.gz" for name in ("n13_sagittal_thick", "n13b_iso"))
    assert scan(thick).voxels.shape == (60, 120, 24)
    np.testing.assert_allclose(scan(thick).spacing, (2, 1, 5))
    np.testing.assert_allclose(seen(thick, size=24), seen(fine, size=24), atol=0.06)  # both at 5 mm
    assert np.abs(seen(thick, size=120) - seen(fine, size=120)).mean() < 0.03


@pytest.mark.parametrize("code", ["RAS", "LAS", "PIR", "ASL", "SAR", "RSA"])
def test_all_orders_of_axes_are_one_volume(cases, code) -> None:
    folder = cases("d_orient") / "orient"
    found = scan(folder / f"vol_{code}.nii.gz").voxels
    np.testing.assert_array_equal(found, np.load(folder.parent / "vol.npy"))


@pytest.mark.parametrize(("modality", "to", "converted", "refused"), [("mr", "ct", 41, 11), ("ct", "mr", 6, 1)])
def test_results_open_under_their_names_on_their_grids(mr, tmp_path, modality, to, converted, refused) -> None:
    folder = mr.parent / modality
    counts, said = run([folder], tmp_path, to)
    assert counts[1] == refused and counts[0] == len(list(tmp_path.iterdir())), said
    for path in tmp_path.iterdir():
        made = nibabel.load(path)
        made.get_fdata()
        source = folder / path.name if path.suffix != ".nii" else next(folder.glob(f"{path.stem}.[hng]*"))
        if not path.name.startswith(("n07", "n02")):  # sources that nibabel cannot read
            np.testing.assert_allclose(made.affine, nibabel.load(source).affine, atol=1e-4, err_msg=path.name)
            assert made.shape == nibabel.load(source).shape
    if modality == "mr":
        assert {"n09_pair.nii", "n09b_analyze.nii", "n10c.mgz"} <= {path.name for path in tmp_path.iterdir()}
        assert (tmp_path / "n07c_notgz.nii.gz").read_bytes()[:2] == b"\x1f\x8b"
        assert (tmp_path / "n07d_gz.nii").read_bytes()[344:348] == b"n+1\0"


def test_a_pair_may_be_given_by_either_file(mr, tmp_path) -> None:
    for ending in (".img", ".hdr"):
        shutil.copy(mr / f"n09_pair{ending}", tmp_path)
    assert run([tmp_path / "n09_pair.img"], tmp_path / "out", "ct") == ((1, 0), [])
    (tmp_path / "n09_pair.img").unlink()
    _, said = run([tmp_path / "n09_pair.hdr"], tmp_path / "out", "ct", force=True)
    assert said[0].endswith("a header without its image: put n09_pair.img beside it")


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_volumes_are_packed_with_and_without_isal(tmp_path, monkeypatch, library) -> None:
    if library == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    values = np.random.default_rng(0).normal(size=(16, 16, 5)).astype(np.float32)
    nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])).to_filename(tmp_path / "a.nii.gz")
    assert run([tmp_path / "a.nii.gz"], tmp_path / "out", "ct")[0] == (1, 0)
    packed = (tmp_path / "out" / "a.nii.gz").read_bytes()
    assert len(gzip.decompress(packed)) == 352 + 2 * values.size
    assert nibabel.load(tmp_path / "out" / "a.nii.gz").shape == (16, 16, 5)


def test_a_wrong_checksum_at_the_end_of_a_larger_file_is_found(tmp_path) -> None:
    """Of a small file all is unpacked at once; here the checksum comes pieces after the last voxel is there."""
    values = np.random.default_rng(0).integers(0, 999, (64, 64, 300)).astype(np.int16)
    content = nibabel.Nifti1Image(values, np.eye(4)).to_bytes() + bytes(2**22)
    sound = gzip.compress(content, 1)
    (tmp_path / "a.nii.gz").write_bytes(sound)
    assert scan(tmp_path / "a.nii.gz").voxels.shape == (300, 64, 64)
    (tmp_path / "a.nii.gz").write_bytes(sound[:-6] + bytes([sound[-6] ^ 255]) + sound[-5:])
    with pytest.raises(UserError, match="its packed content is damaged"):
        scan(tmp_path / "a.nii.gz")


def test_the_offset_is_a_flag_of_convert_and_a_field_of_training(ct, tmp_path) -> None:
    for name in ("n01_base", "n14_offset1024_unscaled"):
        shutil.copy(ct / f"{name}.nii.gz", tmp_path)
    settings = config.override(command.Settings(), ["--ct-offset", "-1024"])
    path = tmp_path / "n14_offset1024_unscaled.nii.gz"
    assert run([path], tmp_path / "out", settings=settings) == ((1, 0), [])
    assert run([tmp_path / "n01_base.nii.gz"], tmp_path / "out") == ((1, 0), [])
    shifted, plain = (nibabel.load(tmp_path / "out" / one).get_fdata() for one in (path.name, "n01_base.nii.gz"))
    np.testing.assert_array_equal(shifted, plain)
    with pytest.raises(UserError, match=r"are HU with an offset: give --ct-offset .*--data\.reading\.ct-offset"):
        scans.load_images([path], 32, 1, scans.ReadSettings("ct"), {path: path})
    trained = scans.load_images([path], 32, 1, scans.ReadSettings("ct", ct_offset=-1024.0), {path: path})
    base = tmp_path / "n01_base.nii.gz"
    usual = scans.load_images([base], 32, 1, scans.ReadSettings("ct"), {base: base})
    np.testing.assert_array_equal(trained.images.pixels, usual.images.pixels)
    assert usual.images.pixels.shape == (6, 32, 32, 1) and usual.images.pixels.max() == 255
