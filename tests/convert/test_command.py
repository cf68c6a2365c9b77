"""The command on folders: what is bad gets one line, the rest is converted, nothing is lost or half written."""

import gzip
import pathlib
import re
import shutil
import tracemalloc

import nibabel
import numpy as np
import pydicom
import pytest
from fakes import SIZE, run, translator
from PIL import Image
from pydicom import examples
from pydicom.data import get_testdata_file

from fedjax_mri.cli import commands as cli
from fedjax_mri.convert import command, translate
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import discover, nifti
from fedjax_mri.data.files.scan import Limits

VIDEO = "1.2.840.10008.1.2.4.10"
LIMITS = Limits(pixels=20_000, bytes=10_000_000)


def picture(path: pathlib.Path, shape: tuple[int, int] = (SIZE, SIZE), level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, level, np.uint8)).save(path)


def slice_of_ct(path: pathlib.Path, syntax: str = "", **changes) -> None:
    dataset = examples.ct
    if syntax.startswith(VIDEO):
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    for name, value in changes.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def nifti_of(path: pathlib.Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine).to_filename(path)


def patch(path: pathlib.Path, place: int, content: bytes) -> None:
    before = path.read_bytes()
    path.write_bytes(before[:place] + content + before[place + len(content) :])


def claiming(path: pathlib.Path, *shape: int) -> None:
    """A file of a few bytes whose header claims a volume of that shape."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float64)
    header["magic"], header["vox_offset"] = b"n+1\0", 352
    content = header.binaryblock + bytes(1000)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def bundled(name: str):
    return lambda path: shutil.copy(str(get_testdata_file(name, download=False)), path)


DEFLATED = "1.2.840.10008.1.2.1.99"
CUBE = np.zeros((SIZE, SIZE, 4), np.float32)
NAN = CUBE.copy()
NAN[4:12, 4:12] = np.nan  # enclosed by what is known, so no background
REFUSED = {  # name -> how it is made, what is said
    "empty.png": (lambda p: p.write_bytes(b""), "empty file"),
    "text.png": (
        lambda p: p.write_text("no image at all"),
        "of no kind that can be read: give one of DICOM, MetaImage, NRRD, MGH, NIfTI",
    ),
    "cut.png": (
        lambda p: (picture(p, (90, 90)), p.write_bytes(p.read_bytes()[:60])),
        "damaged or cut short: write it again",
    ),
    "small.png": (lambda p: picture(p, (7, 300)), "300 x 7 pixels: give 8 x 8 or more"),
    "large.png": (lambda p: picture(p, (201, 100)), "100 x 201 pixels, more than the 20000 allowed"),
    "nan.nii.gz": (lambda p: nifti_of(p, NAN), "256 of 1024 voxels are NaN or infinite: replace them"),
    "huge.nii": (lambda p: claiming(p, 2000, 1250, 1000), "its header claims 20.0 GB: raise --limits.bytes"),
    "huge.nii.gz": (lambda p: claiming(p, 2000, 1250, 1000), "its header claims 20.0 GB: raise --limits.bytes"),
    "short.nii": (lambda p: claiming(p, 16, 16, 16), "claims 33120 bytes, the file has 1348: it was cut short"),
    "short.nii.gz": (lambda p: claiming(p, 16, 16, 16), "claims 33120 bytes, the file has 1348: it was cut short"),
    "series.nii": (lambda p: nifti_of(p, np.zeros((16, 16, 4, 2), np.int16)), "2 volumes of shape (16, 16, 4)"),
    "flat.nii": (lambda p: (nifti_of(p, CUBE), patch(p, 312, bytes(16))), "its affine has no volume"),  # srow_z
    "complex.nii": (lambda p: nifti_of(p, CUBE.astype(np.complex64)), "voxels of type complex64"),
    "thin.nii": (lambda p: nifti_of(p, CUBE[:3]), "3 x 16 pixels: give 8 x 8"),
    "archive.gz": (lambda p: p.write_bytes(gzip.compress(b"text " * 200)), "compressed, but no NIfTI inside"),
    "bad.gz": (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(600)), "its packed content is damaged"),
    "frames.dcm": (bundled("rtdose.dcm"), "its modality is RTDOSE, not CT: give CT"),
    "jpeg.dcm": (bundled("JPEG2000.dcm"), "its modality is NM, not CT"),
    "movie.dcm": (lambda p: slice_of_ct(p, f"{VIDEO}2"), "MPEG-4 AVC/H.264 High Profile / Level 4.1 is no"),
    "deflated.dcm": (lambda p: (slice_of_ct(p, DEFLATED), p.write_bytes(p.read_bytes()[:-300])), "it was cut short"),
    "bits.dcm": (lambda p: slice_of_ct(p, HighBit=14, BitsStored=12), "BitsStored 12 and HighBit 14 of 16 bits"),
    "flat.dcm": (lambda p: slice_of_ct(p, RescaleSlope="0"), "RescaleSlope is 0"),
    "sheared.dcm": (lambda p: slice_of_ct(p, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "at right angles"),
    "sagittal.dcm": (lambda p: slice_of_ct(p, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "a single sagittal"),
    "report.dcm": (bundled("test-SR.dcm"), "holds no image"),
    "cut.dcm": (lambda p: (slice_of_ct(p), p.write_bytes(p.read_bytes()[:-20000])), "cut short"),
    "mr.dcm": (bundled("MR_small.dcm"), "its modality is MR, not CT: give CT"),
    "scout.dcm": (lambda p: slice_of_ct(p, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
    "unscaled.dcm": (lambda p: slice_of_ct(p, RescaleSlope=None), "not in HU"),
    "huge.dcm": (lambda p: slice_of_ct(p, Rows=65535, Columns=65535), "65535 x 65535 pixels: raise --limits.pixels"),
    "lies.dcm": (lambda p: slice_of_ct(p, Rows=100, Columns=99, BitsAllocated=32), "claims 39600 bytes of pixels"),
    "anonymous.dcm": (lambda p: slice_of_ct(p, StudyInstanceUID=None), "has no StudyInstanceUID"),
    "colour.dcm": (lambda p: slice_of_ct(p, PhotometricInterpretation="RGB"), "pixels are RGB"),
    "infinite.dcm": (lambda p: slice_of_ct(p, RescaleSlope="1e39"), "16384 of 16384 voxels are NaN or infinite"),
}


def test_every_bad_file_is_one_line_and_the_rest_is_converted(tmp_path) -> None:
    for name, (make, _) in REFUSED.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        make(tmp_path / "in" / name)
    picture(tmp_path / "in" / "zz" / "good.png")
    files = [tmp_path / "in", tmp_path / "missing.png"]
    counts, said = run(files, tmp_path / "out", settings=command.Settings(limits=LIMITS))
    lines = dict(line.removeprefix(f"{tmp_path}/").split(": ", 1) for line in said)
    assert len(lines) == len(said) and counts == (1, len(said)) and not any("\n" in line for line in said)
    assert lines.pop("missing.png") == "no such file: check the path"
    assert lines.keys() == {f"in/{name}" for name in REFUSED}
    for name, (_, words) in REFUSED.items():
        assert words in lines[f"in/{name}"], name
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["good.png"]


def test_a_folder_of_fifty_with_five_broken_ones(tmp_path, monkeypatch, capsys) -> None:
    """By the command itself: its exit code, its last line, and one result for each good file, where it was."""
    folder = tmp_path / "in"
    for i in range(20):
        picture(folder / f"site{i % 2}" / f"{i}.png", (12 + i, 20), 10 * i)
        picture(folder / "jpeg" / f"{i}.jpg", (SIZE, 9 + i), 10 * i)
    for i in range(4):
        slice_of_ct(folder / f"IM{i}", InstanceNumber=i, SOPInstanceUID=f"1.2.3.{i}")
    nifti_of(folder / "volume.nii.gz", CUBE)
    for name in ("text.png", "huge.nii", "jpeg.dcm", "frames.dcm", "nan.nii.gz"):
        REFUSED[name][0](folder / name)
    (folder / ".hidden").write_text("not looked at")
    monkeypatch.setattr(translate, "translate", lambda run, to: translator())
    words = ["convert", str(tmp_path), str(folder), "--to", "mr", "--out", str(tmp_path / "out"), "--batch", "7"]
    assert cli.main(words) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "45 converted, 5 refused" and len(said) == 6
    made = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    good = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    assert made == {path for path in good if path.name not in REFUSED}
    series = {pydicom.dcmread(tmp_path / "out" / f"IM{i}").SeriesInstanceUID for i in range(4)}
    assert len(series) == 1
    for i in range(20):  # each result is of its own source, whatever batch it came in
        pixels = np.asarray(Image.open(tmp_path / "out" / f"site{i % 2}" / f"{i}.png"))
        assert pixels.shape == (12 + i, 20) and abs(int(pixels[6, 10]) - (255 - 10 * i)) <= 1


def test_nothing_is_overwritten_without_force(tmp_path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("precious")
    counts, said = run([tmp_path / "a.png"], tmp_path / "out")
    assert counts == (0, 1) and "is there: give --force" in said[0]
    assert (tmp_path / "out" / "a.png").read_text() == "precious"
    assert run([tmp_path / "a.png"], tmp_path / "out", force=True)[0] == (1, 0)
    assert Image.open(tmp_path / "out" / "a.png").size == (SIZE, SIZE)


def test_a_source_is_never_overwritten_by_its_own_result(tmp_path) -> None:
    picture(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    counts, said = run([tmp_path / "a.png"], tmp_path, force=True)
    assert counts == (0, 1) and "choose another --out" in said[0]
    assert (tmp_path / "a.png").read_bytes() == before


def test_results_are_whole_or_not_there(tmp_path, monkeypatch) -> None:
    """A disk that fills up midway leaves neither a result nor a draft, and what was there stays."""
    picture(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("precious")

    def half(path: pathlib.Path, content: bytes) -> None:
        path.open("wb").write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", half)
    with pytest.raises(UserError, match=r"a\.png: cannot be written: No space left on device"):
        run([tmp_path / "a.png"], tmp_path / "out", force=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert (tmp_path / "out" / "a.png").read_text() == "precious"


def test_same_names_from_different_folders_keep_their_folders(tmp_path) -> None:
    for name in ("x/a.png", "y/a.png", "y/b.png"):
        picture(tmp_path / name)
    files, _ = discover.find([tmp_path / "x", tmp_path / "y", tmp_path / "y" / "b.png"], tmp_path / "x" / "out")
    assert [str(file.name) for file in files] == ["x/a.png", "y/a.png", "y/b.png"]
    assert [str(file.name) for file in discover.find([tmp_path / "y"], tmp_path)[0]] == ["a.png", "b.png"]


def test_what_was_written_is_not_read_again(tmp_path) -> None:
    picture(tmp_path / "a.png")
    run([tmp_path], tmp_path / "out")
    assert [str(file.name) for file in discover.find([tmp_path], tmp_path / "out")[0]] == ["a.png"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="no files there"):
        discover.find([tmp_path / "nothing"], tmp_path / "out")


def test_draws_give_their_mean_and_standard_deviation(tmp_path) -> None:
    picture(tmp_path / "a.png", level=51)
    picture(tmp_path / "a_std.png", level=51)
    counts, said = run([tmp_path], tmp_path / "out", samples=3)
    assert counts == (1, 1) and "another input gives" in said[0]
    mean, spread = (np.asarray(Image.open(tmp_path / "out" / name)) for name in ("a.png", "a_std.png"))
    np.testing.assert_allclose(mean / 255, 0.5 + 0.3 + 0.01, atol=2e-3)  # 51 is -600 HU; draws 0, 1 and 2 hundredths
    np.testing.assert_allclose(spread / 65535, 0.01, atol=1e-4)


@pytest.mark.parametrize(
    ("fake", "options", "words"),
    [
        (translator(samples=0), {"samples": 2}, "--samples 2: linear has one model"),
        (translator(samples=3), {"samples": 4}, "--samples 4: give 2 to 3"),
        (translator(samples=3), {"samples": 1}, "--samples 1: give 2 to 3"),
        (translator(), {"settings": command.Settings(batch=0)}, "--batch 0"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, fake, options, words) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        command.prepare(fake, "mr", tmp_path, **options)


def test_a_run_that_knows_no_hu_takes_pictures_alone(tmp_path) -> None:
    nifti_of(tmp_path / "ct.nii", CUBE)
    _, said = run([tmp_path / "ct.nii"], tmp_path / "out", fake=translator(None))
    assert "display pictures: give PNG or JPEG" in said[0]


def test_a_volume_s_slices_are_seen_as_a_radiologist_sees_them(tmp_path) -> None:
    """Rows go to posterior, columns to the patient's left, slices to superior, whatever the volume's axes."""
    array = np.zeros((10, 11, 12), np.float32)  # axes: superior to inferior, left to right, posterior to anterior
    array[1, 2, 3] = 1
    affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])
    nifti_of(tmp_path / "a.nii", array, affine)
    slices = nifti.read(tmp_path / "a.nii", "ct", Limits()).voxels
    assert slices.shape == (10, 12, 11)
    assert np.argwhere(slices).tolist() == [[10 - 1 - 1, 12 - 1 - 3, 11 - 1 - 2]]


def test_a_bomb_is_unpacked_little_further_than_its_header_claims(tmp_path) -> None:
    nifti_of(tmp_path / "a.nii", CUBE)
    content, more = (tmp_path / "a.nii").read_bytes(), bytes(2**26)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(content) + 8 * gzip.compress(more))
    tracemalloc.start()
    with pytest.raises(UserError, match="unpacks to more than the 4448 bytes that its header claims"):
        nifti.read(tmp_path / "bomb.nii.gz", "mr", Limits())
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_commands_of_the_page_are_understood() -> None:
    page = (pathlib.Path(__file__).parents[2] / "docs" / "convert.md").read_text()
    commands = re.findall(r"^fedjax-mri (\w+) (.*)$", page, re.M)
    assert len(commands) >= 3
    for name, rest in commands:
        words, flags = cli.parser().parse_known_args([name, *rest.split()])
        assert words.command.__name__ == name == "convert"
        cli.refuse_flags([flag for flag in flags if not re.match(r"--(limits\.\w+|batch)=\d+$", flag)])


def test_a_write_leaves_no_draft(tmp_path) -> None:
    disk.write_bytes(tmp_path / "a", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
