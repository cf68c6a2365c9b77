"""Folders of images and of pairs as people have them: each of the shared difficult cases is right, or one line."""

import shutil

import numpy as np
import pytest
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.pairs import Pairs
from fedjax_mri.data.partition import IID

CLASSES = ("glioma", "meningioma")


@pytest.fixture
def build(cases):
    def one(name: str, **settings):
        root = cases("f_folder") / "fold" / name
        return Folder(str(root), **{"size": 32, "partition": IID(1), "validation": 0.0, **settings}).build(0)

    return one


def table(federation, title: str) -> list:
    (found,) = [table for table in federation.tables if table.title == title]
    return found.rows


def counts(federation) -> list[int]:
    return [int(federation.train.sizes.sum()), *(int(test.data.sizes.sum()) for test in federation.tests.values())]


def pixels(federation) -> set[bytes]:
    return {np.asarray(image).tobytes() for image in federation.train.store.fields["image"]}


@pytest.mark.parametrize("name", ["f02_mac", "f02b_macosx", "f09b_checkpoints", "f12_zip", "f13_lower", "f15_outer"])
def test_leftovers_names_of_splits_and_folders_around_change_nothing(build, name) -> None:
    plain, federation = build("f00_base"), build(name)
    assert federation.classes == plain.classes == CLASSES
    assert counts(federation) == counts(plain) == [24, 8] and federation.labels.tolist() == [[12, 12]]
    assert len(pixels(federation)) == 24
    assert any("Brain MRI dataset" in line for line in federation.warnings) == (name == "f15_outer")


@pytest.mark.parametrize("name", ["f01_upper", "f04_unicode 脑 ü", "f18_perm", "f19_longname", "f20_newline"])
def test_names_of_any_form_are_read(build, name) -> None:
    federation = build(name)
    assert counts(federation) == [28 if name == "f01_upper" else 24, 8]
    assert not [table for table in federation.tables if table.title == "Quarantined files"]


def test_tiff_and_bmp_among_png_are_read(build) -> None:
    plain = build("f00_base")
    for name in ("f03_mixed_formats", "f03b_all_tif"):
        federation = build(name)
        assert federation.labels.tolist() == plain.labels.tolist() == [[12, 12]] and counts(federation) == [24, 8]
        assert not any("left out" in line for line in federation.warnings)


def test_a_picture_that_is_stored_turned_is_upright(tmp_path) -> None:
    """Each has the tag of EXIF by which it is turned back, as from a telephone."""
    upright = np.random.default_rng(0).integers(0, 256, (8, 2, 32, 32), np.uint8)
    tag = Image.Exif()
    tag[0x112] = 6
    for number, pair in enumerate(upright):
        for name, image in zip(CLASSES, pair):
            folder = tmp_path / ("Testing" if number > 5 else "Training") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rot90(image)).save(folder / f"{number}.png", exif=tag)
    federation = Folder(str(tmp_path), size=32, partition=IID(1), validation=0.0).build(0)
    assert pixels(federation) == {image.tobytes() for image in upright[:6].reshape(-1, 32, 32)}


def test_few_images_train_and_a_class_without_any_test_is_warned_of(build) -> None:
    assert counts(build("f14_few")) == [2, 2]
    assert any("no test images of meningioma" in line for line in build("f08_test_missing").warnings)


def test_a_class_of_dicom_beside_one_of_pictures_is_warned_of(build) -> None:
    federation = build("f03c_dicom", split="grouped")
    assert any("files of several kinds" in line and "1 mr" in line for line in federation.warnings)
    assert sum(counts(federation)) == 6 + 12 + 8, "six copies of one slice among the gliomas"


def test_a_folder_below_a_class_is_a_patient_who_stays_together(build, cases, tmp_path) -> None:
    with pytest.raises(UserError, match=r"6 patients are in more than one split \(glioma/p0, .*\): put each into one"):
        build("f05_nested")
    root = shutil.copytree(cases("f_folder") / "fold" / "f05_nested", tmp_path / "renamed")
    for patient in root.glob("Testing/*/p*"):
        patient.rename(patient.with_name(f"q{patient.name}"))
    federation = Folder(str(root), 32, split="grouped", holdout=0.3, validation=0.0, partition=IID(1)).build(0)
    assert federation.classes == CLASSES and sum(counts(federation)) == 32
    groups = dict(table(federation, "Duplicates"))
    assert groups["groups of duplicates"] <= 12, "3 patients of each class and split"
    assert table(federation, "Test images with a twin in training")[-1][2:] == (0, 0)


def test_a_single_class_is_warned_of(build) -> None:
    assert any("there is one class, glioma" in line for line in build("f06_single").warnings)


def test_odd_modes_and_broken_files_are_read_or_quarantined_with_the_reason(build) -> None:
    federation = build("f10_modes", size=64)
    rows = {name.rpartition("/")[2]: reason for name, reason in table(federation, "Quarantined files")}
    assert {"zero.png", "cut.jpg", "html.jpg"} <= rows.keys() and all(rows.values())
    shown = {np.asarray(image).tobytes(): int(image.max()) for image in federation.train.store.fields["image"]}
    assert len(shown) >= 12 + 12 + 4 and min(shown.values()) == 0, "the black one is among them"


def test_a_val_folder_validates(build) -> None:
    federation = build("f13b_val", validation=0.1)
    assert counts(federation) == [24, 8, 8] and list(federation.tests) == ["published test", "validation"]
    test, validation = (one.data.store.fields["image"] for one in federation.tests.values())
    assert {image.tobytes() for image in test} == {image.tobytes() for image in validation}, "they are copies here"


def test_masks_beside_images_are_no_images(build) -> None:
    federation = build("f16_exif")
    assert counts(federation) == [24, 8]
    assert any("left out 12 masks" in line and "_mask.png" in line for line in federation.warnings)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("f07b_suffix", "unknown class 'glioma', training knows glioma_tumor, meningioma_tumor: rename or remove"),
        ("f07c_space", "unknown class 'glioma', training knows glioma , meningioma"),
        ("f07_case", "unknown class 'glioma', training knows Glioma, Meningioma"),
        ("f08b_train_missing", "unknown class 'meningioma'"),
        ("f09_empty_class", "pituitary: no images in this folder: add some or remove it"),
        ("f12_zip_only", "no images but .zip in this folder"),
        ("f21_singlesplit", "Testing: no such split, found Training: set --data.train and .*--data.split grouped"),
    ],
)
def test_what_cannot_be_right_is_one_line(build, name, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(name)
    assert "\n" not in str(caught.value)


@pytest.fixture
def pair(cases):
    return lambda name, **settings: Pairs(str(cases("r_pairs") / "pairs" / name), size=32, **settings).build(0)


@pytest.mark.parametrize("name", ["r02_jpg", "r02b_upper", "r03_mac", "r03b_mac_one", "r04_mixedext"])
def test_pairs_of_any_ending_and_with_leftovers_are_the_same_cases(pair, name) -> None:
    plain, federation = pair("r00_base"), pair(name)
    assert federation.tables[0].rows == plain.tables[0].rows
    assert [row[:2] for row in plain.tables[0].rows] == [(f"p{case}", 4) for case in range(1, 5)]
    for modality in ("ct", "mr"):
        ours, theirs = (one.train.store.fields[modality].astype(float) for one in (federation, plain))
        assert np.abs(ours - theirs).mean() < (3 if name in ("r02_jpg", "r04_mixedext") else 1e-9)


def test_unpadded_numbers_of_slices_are_no_cases(pair) -> None:
    rows = pair("r01_unpadded").tables[0].rows
    assert sorted(row[:2] for row in rows) == sorted((f"p{case}", 12) for case in range(1, 13))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("r06_sizes", "MRI/p1_001.png: 80 x 50 pixels, and its CT 64 x 64: registered pairs are of one size"),
        ("r07_suffix", r"CT/p1_001.png: has no partner .*p1_001_mr.png is of another name: give both the same"),
    ],
)
def test_pairs_that_do_not_fit_are_one_line(pair, name, words) -> None:
    with pytest.raises(UserError, match=words):
        pair(name)
