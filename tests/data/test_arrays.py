"""Arrays in .npz files, MedMNIST's among them, as people save them: read right, or refused in one line."""

import pathlib

import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.arrays import Arrays
from fedjax_mri.data.partition import IID

N = 60
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, 9, 8), np.uint8)
LABELS = np.arange(N) % 3


@pytest.fixture
def save(tmp_path):
    def write(**arrays) -> str:
        np.savez(tmp_path / "some.npz", **{"images": IMAGES, "labels": LABELS, **arrays})
        return str(tmp_path / "some.npz")

    return write


def held(data) -> list[tuple[bytes, int]]:
    fields = data.store.fields
    return [(np.asarray(image).tobytes(), int(label)) for image, label in zip(fields["image"], fields["label"])]


def build(path: str, **settings):
    return check.build_source(Arrays(path, **{"partition": IID(2), **settings}), 0)


def test_every_image_is_on_one_side_with_its_label(save) -> None:
    federation = build(save())
    sides = [federation.train, *(test.data for test in federation.tests.values())]
    assert list(federation.tests) == ["test", "validation"] and federation.classes == ("0", "1", "2")
    assert [int(data.sizes.sum()) for data in sides] == [45, 9, 6]
    found = sorted(example for data in sides for example in held(data))
    assert found == sorted((image.tobytes(), int(label)) for image, label in zip(IMAGES, LABELS))
    assert federation.train.store.fields["image"].shape[1:] == (9, 8, 1) and not federation.warnings


def test_sites_and_splits_of_the_file_are_kept(save) -> None:
    sites = np.array(["Rome", "Oslo", "Bonn"])[np.arange(N) // 20]
    splits = np.array(["train", "train", "Val", "TEST"])[np.arange(N) % 4]
    splits[sites == "Bonn"] = "test"
    federation = build(save(sites=sites, splits=splits))
    assert federation.train.sizes.tolist() == [10, 10] and federation.tests["validation"].owner.tolist() == [0, 1]
    test = federation.tests["test"]
    assert test.owner.tolist() == [0, 1, -1] and test.data.sizes.tolist() == [5, 5, 20]
    oslo = {image.tobytes() for image in IMAGES[(sites == "Oslo") & (splits == "train")]}
    assert {image for image, _ in held(federation.train)[:10]} == oslo, "clients are in the order of their names"
    (clients,) = [table for table in federation.tables if table.title == "Clients"]
    assert [row[0] for row in clients.rows] == ["Oslo", "Rome"] and clients.rows[0][-2:] == (5, 5)


def test_patients_and_copies_are_not_divided(save) -> None:
    images = IMAGES.copy()
    images[1::2] = images[::2, :, ::-1]  # each is the mirror image of the one before
    federation = build(save(images=images, labels=np.arange(N) // 2 % 3, patients=np.arange(N) // 6))
    parts = [federation.train, *(test.data for test in federation.tests.values())]
    clients = [image for data in parts for image in np.split(data.store.fields["image"], data.store.offset[1:])]
    patient = {image.tobytes(): index // 6 for index, image in enumerate(images)}
    seen = [{patient[np.asarray(image).tobytes()] for image in of_one} for of_one in clients]
    assert sum(map(len, seen)) == 10 and set.union(*seen) == set(range(10))


@pytest.mark.parametrize("what", ["sites", "splits"])
def test_a_patient_in_two_sites_or_splits_is_named(save, what) -> None:
    there = np.array(["train", "test"])[np.arange(N) % 2]
    patients = np.where(np.arange(N) < 4, "P7", np.char.add("q", (np.arange(N) % 2).astype(str)))
    with pytest.raises(UserError, match=f"1 patients are in more than one {what[:-1]} \\(P7\\)"):
        build(save(patients=patients, **{what: there}))


RGB = RNG.integers(0, 256, (N, 9, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "shape", "values", "note"),
    [
        (RGB, (9, 8, 3), RGB, ""),
        (np.moveaxis(RGB, -1, 1), (9, 8, 3), RGB, "taken as [n, channels, ...]"),
        (np.repeat(IMAGES[:, None], 7, 1), (7, 9, 8, 1), None, ""),
        (IMAGES > 99, (9, 8, 1), (IMAGES > 99) * np.uint8(255), ""),
        ((IMAGES / 255).astype(np.float64), (9, 8, 1), IMAGES / 255, ""),
        (IMAGES.astype(np.float32), (9, 8, 1), IMAGES / 255, "255 is taken as white"),
        (IMAGES.astype(np.int64), (9, 8, 1), IMAGES / 255, "255 is taken as white"),
        (IMAGES.astype(np.uint16) * 16, (9, 8, 1), IMAGES / 255, "uint16 from 0 to 4080: 4080 is taken as white"),
    ],
)
def test_any_shape_and_type_gives_the_same_images(save, images, shape, values, note) -> None:
    federation = build(save(images=images, splits=np.repeat(["train", "test"], [40, 20])), partition=IID(1))
    found = federation.train.store.fields["image"]
    assert found.shape[1:] == shape and found.dtype == (
        np.uint8 if np.asarray(values).dtype == np.uint8 else found.dtype
    )
    if values is not None:
        np.testing.assert_allclose(sorted(found.ravel()), sorted_training(federation, values), atol=1e-6)
    assert note in "; ".join(federation.warnings) and len(federation.warnings) == bool(note)


def sorted_training(federation, values):
    """The values of the examples that neither test nor validate: all but what these hold."""
    validated = federation.tests["validation"].data.store.fields["image"].ravel()
    left = np.sort(np.asarray(values[:40], np.float32).ravel())
    places = np.searchsorted(left, np.sort(validated) - 1e-6)
    counted, taken = np.ones(len(left), bool), np.sort(validated)
    for value, place in zip(taken, places):
        while not counted[place]:
            place += 1
        assert abs(left[place] - value) < 1e-5
        counted[place] = False
    return left[counted]


def test_hounsfield_units_are_shown_in_the_window_given(save) -> None:
    hu = RNG.integers(-1024, 3000, (N, 9, 8)).astype(np.int16)
    with pytest.raises(UserError, match=r"int16 from -10\d\d to 29\d\d: say what is black and white"):
        build(save(images=hu))
    federation = build(save(images=hu), black=-100.0, white=300.0)
    found = np.concatenate([one.store.fields["image"].ravel() for one in all_data(federation)])
    np.testing.assert_allclose(sorted(found), sorted(((hu + 100) / 400).clip(0, 1).ravel()), atol=1e-6)
    lost = int(((hu < -100) | (hu > 300)).sum())
    assert f"{lost} of {hu.size} pixels, in 60 of 60 images, lie outside of data.black=-100" in federation.warnings[0]


def test_copies_with_other_labels_are_said(save) -> None:
    images = IMAGES.copy()
    images[10], images[20] = images[5, :, ::-1], images[2]  # 10 has another label than 5, 20 the same as 2
    (line,) = build(save(images=images)).warnings
    assert "2 images are copies" in line and "such as images 5 and 10" in line


def all_data(federation):
    return [federation.train, *(test.data for test in federation.tests.values())]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS[:, None].astype(np.uint8), ("0", "1", "2")),
        (LABELS + 1.0, ("1", "2", "3")),
        (np.array(["b", "a", "c"])[LABELS], ("a", "b", "c")),
        (np.eye(3)[LABELS], ("0", "1", "2")),
    ],
)
def test_labels_of_any_form_name_the_classes(save, labels, classes) -> None:
    federation = build(save(labels=labels))
    assert federation.classes == classes
    names = {image: classes[label] for data in all_data(federation) for image, label in held(data)}
    flat = labels[:, 0].astype(int) if labels.shape[1:] == (1,) else labels
    wanted = flat.argmax(1) if flat.ndim == 2 else flat
    assert all(
        names[image.tobytes()] == str(int(one) if one.dtype.kind == "f" else one) for image, one in zip(IMAGES, wanted)
    )


def test_medmnist_files_are_read_as_they_are_published(tmp_path) -> None:
    parts = {"train": IMAGES[:30], "val": IMAGES[30:42], "test": IMAGES[42:]}
    arrays = {f"{name}_images": images for name, images in parts.items()}
    labels = {"train": LABELS[:30], "val": LABELS[30:42], "test": LABELS[42:]}
    arrays |= {f"{name}_labels": of_split[:, None] for name, of_split in labels.items()}
    np.savez_compressed(tmp_path / "pneumoniamnist.npz", **arrays)
    federation = build(str(tmp_path / "pneumoniamnist.npz"), classes=("no", "mild", "severe"))
    assert federation.classes == ("no", "mild", "severe")
    found = {
        "train": federation.train,
        "val": federation.tests["validation"].data,
        "test": federation.tests["test"].data,
    }
    for name, images in parts.items():
        wanted = [(image.tobytes(), int(label)) for image, label in zip(images, labels[name])]
        assert sorted(held(found[name])) == sorted(wanted)
    tests, _ = Arrays(str(tmp_path / "pneumoniamnist.npz"), classes=("no", "mild", "severe")).evaluation(
        ("severe", "no", "mild"), 0
    )
    assert sorted(tests["pneumoniamnist"].data.store.fields["label"]) == sorted((LABELS + 1) % 3)


def spoilt(tmp_path: pathlib.Path, kind: str) -> str:
    path = tmp_path / "bad.npz"
    match kind:
        case "text":
            path.write_text("images")
        case "cut":
            np.savez(path, images=IMAGES, labels=LABELS)
            path.write_bytes(path.read_bytes()[:500])
        case "npy":
            np.save(path.open("wb"), IMAGES)
        case "objects":
            np.savez(path, images=np.array([{}] * N, object), labels=LABELS)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", "No such file"),
        ("text", "not an .npz file"),
        ("cut", "not an .npz file"),
        ("npy", "a single array"),
        ("objects", "bad.npz: images holds Python objects: save numbers"),
    ],
)
def test_a_file_of_anything_else_is_refused_in_one_line(tmp_path, kind, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(spoilt(tmp_path, kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "settings", "words"),
    [
        ({"labels": LABELS[:9]}, {}, "60 images and 9 labels"),
        ({}, {"labels": "diagnosis"}, "no array 'diagnosis', found images, labels"),
        ({"labels": RNG.integers(0, 2, (N, 14))}, {}, "several or no classes of an image"),
        ({"labels": LABELS + 0.5}, {}, "with fractions"),
        ({"images": IMAGES[:, 0]}, {}, r"of the shape \[60, 8\]"),
        ({"images": IMAGES / np.nan}, {}, "60 of 60 images hold NaN or inf, the first of them image 0"),
        ({"images": np.where(np.arange(N)[:, None, None] == 7, np.nan, IMAGES)}, {}, "1 of 60 images .* image 7: rep"),
        ({"labels": np.where(np.arange(N) == 5, np.nan, LABELS)}, {}, "1 of 60 labels are NaN or inf, .* image 5"),
        ({"images": np.zeros((N, 20, 20, 8), np.uint8)}, {}, "have 8 channels, or slices along their last axis"),
        (
            {"test_images": IMAGES, "train_images": IMAGES, "train_labels": LABELS},
            {},
            "test_images without test_labels",
        ),
        ({"images": np.repeat(IMAGES[..., None, None], 9, -1)}, {}, "have 9 channels"),
        ({"splits": np.full(N, "fold 1")}, {}, "split 'fold 1' of image 0: give one of training, train"),
        ({}, {"holdout": 1.0}, "data.holdout=1.0: give a share from 0 to below 1"),
        ({}, {"classes": ("a", "b")}, r"labels are 0, 1, 2, data.classes a, b"),
        ({"images": IMAGES}, {"black": 9.0, "white": 3.0}, "white must be above black"),
    ],
)
def test_arrays_that_do_not_fit_are_named(save, arrays, settings, words) -> None:
    with pytest.raises(UserError, match=words):
        build(save(**arrays), **settings)


def test_features_are_images_where_so_many_channels_are_allowed(save) -> None:
    features = RNG.random((N, 5, 5, 9)).astype(np.float16)
    kept = np.asarray(build(save(images=features), channels=9).train.store.fields["image"])
    assert kept.shape[1:] == (5, 5, 9)
    assert {image.tobytes() for image in kept} <= {image.tobytes() for image in np.float32(features)}
    volumes = build(save(images=features)).train.store.fields["image"]
    assert volumes.shape[1:] == (5, 5, 9, 1), "without data.channels the last axis is one of space"


def test_unknown_patients_are_not_one_and_floats_may_pass_one_a_little(save) -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1.02, (12, 8, 8)).astype(np.float32)
    labels, sites = np.arange(12) % 2, np.repeat(["a", "b"], 6)
    path = save(images=images, labels=labels, sites=sites, patients=np.array([""] * 12))
    federation = Arrays(path, validation=0).build(0)
    assert sorted(federation.train.sizes.tolist()) != [0, 10] and len(federation.train.sizes) == 2
    assert federation.train.store.fields["image"].max() > 0.99
    assert any("1 is taken as white" in line for line in federation.warnings)
    with pytest.raises(UserError, match=r"no array 'hospital', found .*: check data.sites"):
        Arrays(path, sites="hospital").build(0)
