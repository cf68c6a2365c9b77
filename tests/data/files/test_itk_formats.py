"""MetaImage and NRRD: what ITK writes is read, and what is written ITK reads, on the same grid."""

import pathlib

import numpy as np
import pytest
from fakes import SIZE, run

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.read import read
from fedjax_mri.data.files.scan import Limits

sitk = pytest.importorskip("SimpleITK")
HU = np.random.default_rng(0).uniform(-900, 900, (6, SIZE, SIZE)).round()


def image(dtype: type = np.int16):
    found = sitk.GetImageFromArray(HU.astype(dtype))
    found.SetSpacing((0.7, 0.7, 3.0))
    found.SetOrigin((-100.5, 20.25, 7.0))
    turn = np.radians(12)
    c, s = np.cos(turn), np.sin(turn)
    found.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    return found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_what_itk_writes_is_read_and_comes_back(tmp_path, name, packed) -> None:
    sitk.WriteImage(image(), str(tmp_path / name), packed)
    scan = read(tmp_path / name, "ct", Limits())
    np.testing.assert_array_equal(scan.voxels, HU)
    np.testing.assert_allclose(scan.spacing, (3, 0.7, 0.7))
    counts, said = run([tmp_path], tmp_path / "out")
    assert counts == (1, 0) and not said, said
    (made,) = (tmp_path / "out").iterdir()
    assert made.suffix == {".mhd": ".mha", ".nhdr": ".nrrd"}.get(pathlib.Path(name).suffix, pathlib.Path(name).suffix)
    result = sitk.ReadImage(str(made))
    np.testing.assert_allclose(sitk.GetArrayFromImage(result), 0.5 - HU / 2000, atol=1e-5)
    for ask in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(result, ask)(), getattr(image(), ask)(), atol=1e-9, err_msg=ask)
    assert b"fedjax-mri linear: ct to mr" in made.read_bytes()[:300]


def test_any_axes_and_types_are_read(tmp_path) -> None:
    for dtype in (np.int32, np.float32, np.float64, np.int8):
        turned = sitk.DICOMOrient(sitk.Cast(image(), sitk.sitkFloat32), "SAR")
        sitk.WriteImage(turned, str(tmp_path / "a.mha"))
        np.testing.assert_allclose(read(tmp_path / "a.mha", "ct", Limits()).voxels, HU, atol=1e-3)
        sitk.WriteImage(image(dtype), str(tmp_path / "a.nrrd"))
        np.testing.assert_array_equal(read(tmp_path / "a.nrrd", "mr", Limits()).voxels, HU.astype(dtype))


def edited(path: pathlib.Path, before: bytes, after: bytes) -> pathlib.Path:
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after, 1))
    return path


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("a.mha", b"TransformMatrix", b"Matrix", "does not say how it lies"),
        ("a.mha", b"DimSize = 16 16 6", b"DimSize = 16 16 9", "claims 4608 bytes, the file has 3072: it was cut short"),
        ("a.mha", b"DimSize = 16 16 6", b"DimSize = 16 99999 99999", "its header claims"),
        ("a.mha", b"DimSize = 16 16 6", b"DimSize = 16 x 6", "a field that is no number"),
        ("a.mha", b"MET_SHORT", b"MET_STRING", "no 'MET_STRING' that is known"),
        ("a.mha", b"LOCAL", b"/etc/hostname", "its voxels are in '/etc/hostname'"),
        ("a.mha", b"LOCAL", b"../a.raw", "its voxels are in '../a.raw'"),
        ("a.mha", b"LOCAL", b"a.raw", "a header without its voxels: put a.raw beside it"),
        ("a.nrrd", b"space: left", b"spice: left", "does not say how it lies"),
        ("a.nrrd", b"encoding: raw", b"encoding: hex", "its encoding is hex: give raw or gzip"),
        ("a.nrrd", b"encoding: raw", b"encoding: gzip", "its packed content is damaged"),
        ("a.nrrd", b"dimension: 3", b"byte skip: 9", "its voxels follow something else"),
        ("a.nrrd", b"sizes: 16 16 6", b"sizes: 16 96", "2 dimensions: give one volume of 3"),
    ],
)
def test_headers_that_lie_are_one_line(tmp_path, name, before, after, said) -> None:
    sitk.WriteImage(image(), str(tmp_path / name))
    with pytest.raises(UserError) as refused:
        read(edited(tmp_path / name, before, after), "mr", Limits())
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_colours_are_refused(tmp_path) -> None:
    for name in ("a.mha", "a.nrrd"):
        sitk.WriteImage(sitk.Compose([image()] * 3), str(tmp_path / name))
        with pytest.raises(UserError, match=r"several values a voxel|4 dimensions|give one|no number"):
            read(tmp_path / name, "mr", Limits())
