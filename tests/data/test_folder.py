"""Folders of images, sound and broken, from the files to batches read inside a compiled program."""

import pathlib
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check, folder, layout
from fedjax_mri.data.files import images
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.layout import Splits
from fedjax_mri.data.partition import IID, Dirichlet, Sizes
from fedjax_mri.data.resident import resident

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data" / "brain-tumor-mri"
CLASSES = ("cyst", "none")


def picture(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save(seed: int, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


@pytest.fixture
def root(tmp_path):
    """20 training and 6 test images of each class; of the cysts in the test, one is a copy and one nearly so."""
    top = tmp_path / "mri"
    for c, label in enumerate(CLASSES):
        for split, seeds in (("Training", range(20)), ("Testing", range(20, 26))):
            for seed in seeds:
                save(100 * c + seed, top / split / label / f"image ({seed}).PNG")
    shutil.copy(top / "Training/cyst/image (3).PNG", top / "Testing/cyst/image (20).PNG")
    picture(4).resize((55, 55)).save(top / "Testing/cyst/image (21).PNG")
    return top


def build(root, seed=0, partition=IID(4), **settings):  # noqa: B008, a frozen dataclass of plain data
    return Folder(str(root), **{"size": 16, "partition": partition, "validation": 0.0, **settings}).build(seed)


def table(tables, title):
    (found,) = [table for table in tables if table.title == title]
    return found.rows


def held(data) -> list[tuple[bytes, int]]:
    fields = data.store.fields
    return [(np.asarray(image).tobytes(), int(label)) for image, label in zip(fields["image"], fields["label"])]


def test_published_split_is_kept_and_its_leaks_are_told(root):
    federation = build(root)
    assert federation.classes == CLASSES
    assert federation.labels.sum(0).tolist() == [20, 20]
    assert federation.train.sizes.tolist() == [10, 10, 10, 10]
    test = federation.tests["published test"]
    assert test.data.sizes.sum() == 12 and test.owner.tolist() == [0, 1, 2, 3]
    assert table(federation.tables, "Test images with a twin in training") == [
        ("cyst", 6, 1, 1),
        ("none", 6, 0, 0),
        ("all", 12, 1, 1),
    ]
    (warning,) = federation.warnings
    assert warning.startswith("2 of 12 test images have a twin in training (1 exact, 1 near)")


def test_grouped_split_has_no_leak(root):
    federation = build(root, split="grouped", holdout=0.25)
    test = federation.tests["grouped test"]
    assert test.data.sizes.sum() == 12 and federation.train.sizes.sum() == 40
    assert len(set(held(federation.train) + held(test.data))) == 51, "all images but the one exact copy"
    assert table(federation.tables, "Test images with a twin in training")[-1] == ("all", 12, 0, 0)
    assert not federation.warnings


@pytest.mark.parametrize("split", ["published", "grouped"])
def test_a_tenth_of_the_training_images_validates_and_the_test_set_stays(root, split):
    without, federation = (build(root, split=split, validation=share) for share in (0.0, 0.1))
    assert list(federation.tests) == [f"{split} test", "validation"] and list(without.tests) == [f"{split} test"]
    assert sorted(held(federation.tests[f"{split} test"].data)) == sorted(held(without.tests[f"{split} test"].data))
    validation = federation.tests["validation"]
    assert validation.data.sizes.sum() == 4 and sorted(label for _, label in held(validation.data)) == [0, 0, 1, 1]
    assert sorted(held(federation.train) + held(validation.data)) == sorted(held(without.train))
    assert validation.owner.tolist() == [0, 1, 2, 3]
    rows = [row[-2:] for row in table(federation.tables, "Clients")]
    assert np.sum(rows, 0).tolist() == [4, without.tests[f"{split} test"].data.sizes.sum()]


def test_copies_are_not_divided_between_training_and_validation(root):
    for path in [*root.glob("Training/*/*")]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    federation = build(root, size=40, validation=0.2)
    train, validation = held(federation.train), held(federation.tests["validation"].data)
    assert len(validation) == 16 and not set(train) & set(validation)


def test_a_folder_of_validation_images_validates(root):
    for label, seed in (("cyst", 50), ("none", 150)):
        save(seed, root / "val" / label / "x.png")
    federation = build(root, size=40, validation=0.1)
    assert not [line for line in federation.warnings if "unused" in line]
    assert set(held(federation.tests["validation"].data)) == {(picture(50).tobytes(), 0), (picture(150).tobytes(), 1)}
    assert federation.train.sizes.sum() == 40


def test_every_image_reaches_one_client_with_its_label(root):
    federation = build(root, size=40)
    store, test = federation.train.store, federation.tests["published test"].data
    assert store.fields["image"].shape == (40, 40, 40, 1) and store.fields["image"].dtype == jnp.uint8
    assert store.fields["label"].dtype == jnp.int32
    assert set(held(federation.train)) == {(picture(100 * c + i).tobytes(), c) for c in (0, 1) for i in range(20)}
    assert len(held(test)) == 12 and set(held(test)) >= {(picture(100 + i).tobytes(), 1) for i in range(20, 26)}
    counts = [np.bincount(part, minlength=2) for part in np.split(store.fields["label"], store.offset[1:])]
    np.testing.assert_array_equal(federation.labels, counts)


def test_copies_train_at_one_hospital(root):
    for copy in range(5):
        shutil.copy(root / "Training/none/image (7).PNG", root / f"Training/none/copy {copy}.png")
    train = build(root, size=40).train
    rows = [row for row, example in enumerate(held(train)) if example == (picture(107).tobytes(), 1)]
    assert len(rows) == 6
    assert len(set(np.searchsorted(train.store.offset, rows, side="right"))) == 1


def test_a_hospital_is_tested_on_its_own_mix(root):
    federation = build(root, partition=Dirichlet(3, 0.05))
    test = federation.tests["published test"].data
    tested = np.split(test.store.fields["label"], test.store.offset[1:])
    for own, labels in zip(federation.labels, tested):
        np.testing.assert_allclose(np.bincount(labels, minlength=2), own * 6 / 20, atol=1)


@pytest.mark.parametrize("split", ["published", "grouped"])
def test_same_seed_same_federation(root, split):
    first, again, other = (build(root, seed, split=split, partition=Sizes((3, 1))) for seed in (1, 1, 2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)):
        if not callable(a):
            np.testing.assert_array_equal(a, b)
    assert (first.train.store.fields["image"] != other.train.store.fields["image"]).any()


def break_files(folder: pathlib.Path) -> dict[str, str]:
    """Bad files in a class folder: name -> a word of the reason."""
    whole = (folder / "image (0).PNG").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("not an image\n" * 20)
    picture(1).save(folder / "web.jpeg", format="WEBP")
    Image.new("L", (12_000, 12_000)).save(folder / "bomb.png")
    Image.new("L", (20_000, 10_000)).save(folder / "larger bomb.png")
    picture(2, (400, 400)).save(folder / "cut.jpg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-3000])
    (folder / "gone.png").symlink_to("nowhere")
    reasons = {"cut.png": "cut short", "empty.jpg": "empty file", "text.png": "of no kind that can be read"}
    reasons |= {
        "web.jpeg": "of no kind",
        "bomb.png": "12000 x 12000 pixels",
        "larger bomb.png": "more pixels than the 67108864 allowed",
    }
    return reasons | {"cut.jpg": "cut short", "gone.png": "no such file"}


def test_bad_files_are_quarantined_and_the_run_goes_on(root):
    reasons = break_files(root / "Training" / "none")
    federation = build(root)
    rows = {pathlib.Path(path).name: reason for path, reason in table(federation.tables, "Quarantined files")}
    assert rows.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in rows[name] and "\n" not in rows[name], (name, rows[name])
    assert federation.labels.sum() == 40
    assert any(line.startswith("8 of 60 files could not be read") for line in federation.warnings)


def test_random_damage_never_stops_the_decoder(tmp_path):
    rng = np.random.default_rng(0)
    picture(0).save(tmp_path / "a.png")
    picture(0).save(tmp_path / "a.jpg")
    outcomes = set()
    for trial in range(300):
        path = tmp_path / ("a.png", "a.jpg")[trial % 2]
        content = bytearray(path.read_bytes())
        for at in rng.integers(0, len(content), 5):
            content[at] = rng.integers(256)
        damaged = tmp_path / f"damaged{path.suffix}"
        damaged.write_bytes(content[: rng.integers(1, 2 * len(content))])
        outcomes.add(type(images.decode_picture(str(damaged), 8, 1)))
    assert outcomes == {str, images.DecodedImage}


def test_decoding_keeps_proportions_depth_and_colour(tmp_path):
    deep = np.zeros((30, 60), np.uint16)
    deep[:, 30:] = 4095
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pixels = images.decode_picture(str(tmp_path / "deep.png"), 60, 1).pixels[..., 0]
    assert not pixels[:15].any() and not pixels[45:].any()
    assert pixels[15:45, :25].max() == 0 and pixels[15:45, 35:].min() == 255
    Image.new("RGB", (9, 9), (200, 10, 30)).save(tmp_path / "red.png")
    assert images.decode_picture(str(tmp_path / "red.png"), 5, 3).pixels[2, 2].tolist() == [200, 10, 30]


@pytest.mark.parametrize(
    ("levels", "path", "place"),
    [
        ("split/class", "Training/cyst/1.png", ("Training", "", "cyst", "")),
        ("split/class", "Training/cyst/P1/day 2/1.png", ("Training", "", "cyst", "P1/day 2")),
        ("split/class", "data/v2/Training/cyst/1.png", ("Training", "", "cyst", "")),
        ("split/class", "cyst/.cache/1.png", None),
        ("split/class", "cyst/__MACOSX/1.png", None),
        ("site/class", "Rome/cyst/1.png", ("", "Rome", "cyst", "")),
        ("split/site/class", "train/Rome/cyst/P1/1.png", ("train", "Rome", "cyst", "P1")),
        ("split/patient/class", "Training/P1/cyst/1.png", ("Training", "", "cyst", "P1")),
    ],
)
def test_folders_are_what_the_layout_says(tmp_path, levels, path, place):
    for name in (path, str(Path(path).parent).replace("cyst", "none") + "/2.png"):
        save(0, tmp_path / name)
    if place is None:
        save(0, tmp_path / "cyst/3.png")
        save(0, tmp_path / "none/4.png")
    found, _ = layout.find(str(tmp_path), levels, Splits("Training", "Testing"))
    assert found.get(tmp_path / path) == (place and layout.PathLabels(*place))


def test_masks_in_folders_and_by_any_name_are_left_out(tmp_path):
    kept = ("cyst/p0.png", "cyst/image_1.png", "cyst/seg_9.png", "none/P3/a.png", "none/seg_2.png", "none/seg_12.png")
    lost = ("cyst/mask_p0.png", "cyst/seg_1.png", "none/P3/masks/a.png", "none/seg/b.png", "segmentations/c.png")
    for number, name in enumerate((*kept, *lost, "Labels/x/d.png", "cyst/p0_seg.png", "none/P3/mask/e.png")):
        save(number, tmp_path / name)
    found, lines = layout.find(str(tmp_path), "class", Splits("Training", "Testing"))
    assert {str(path.relative_to(tmp_path)) for path in found} == set(kept)
    assert {at.label for at in found.values()} == set(CLASSES)
    assert "left out 3 masks that lie beside" in lines[0] and "left out 5 folders of masks by their name" in lines[1]
    known, _ = layout.find(str(tmp_path), "class", Splits("Training", "Testing"), (*CLASSES, "seg"))
    assert len(known) == len(kept) + 1, "a class that a model knows is no folder of masks"


@pytest.mark.parametrize("split", ["published", "grouped"])
def test_a_patient_s_folder_in_training_and_test_is_one_patient(tmp_path, split):
    for number in range(24):
        side, label = ("Training", "Testing")[number % 3 == 2], CLASSES[number % 2]
        save(number, tmp_path / side / label / f"P{number if number > 2 else number // 2}" / "1.png")
    (tmp_path / "Training/cyst/P0").rename(tmp_path / "Training/cyst/P1")
    if split == "published":
        with pytest.raises(UserError, match=r"1 patients are in more than one split \(cyst/P1\): "):
            build(tmp_path, split=split)
    else:
        groups = dict(table(build(tmp_path, split=split, holdout=0.3).tables, "Duplicates"))
        assert (groups["groups of duplicates"], groups["images in these groups"]) == (1, 2)


@pytest.mark.parametrize("names", [("a|b", "c"), ("Cyst", "cyst")])
def test_names_of_classes_that_break_tables_are_refused(tmp_path, names):
    for number in range(12):
        save(number, tmp_path / "data" / names[number % 2] / f"{number}.png")
    with pytest.raises(UserError, match=r"breaks tables; rename it|differ in case alone"):
        check.build_source(Folder(str(tmp_path), 16, split="grouped", layout="class", partition=IID(2)), 0)


def test_folders_that_may_be_classes_or_patients_are_asked_about(tmp_path):
    for name in ("cyst/P1", "cyst/P2", "none/P1", "none/P2"):
        save(0, tmp_path / name / "1.png")
    with pytest.raises(UserError, match=r"cyst, none each hold P1, P2: say which are classes, as --data.layout"):
        build(tmp_path, split="grouped")
    found, _ = layout.find(str(tmp_path), "class/patient", Splits("Training", "Testing"))
    assert {at.label for at in found.values()} == {"cyst", "none"}


def without_splits(root):
    shutil.rmtree(root / "Testing")
    for label in CLASSES:
        shutil.move(root / "Training" / label, root / label)
    (root / "Training").rmdir()


def ruin(root, kind: str) -> None:
    none = root / "Training" / "none"
    match kind:
        case "no root":
            shutil.rmtree(root)
        case "no test split":
            (root / "Testing").rename(root / "Validation")
        case "no splits":
            without_splits(root)
        case "empty class":
            (root / "Training" / "meningioma").mkdir()
        case "empty root":
            shutil.rmtree(root)
            root.mkdir()
        case "unknown class":
            (root / "Testing" / "none").rename(root / "Testing" / "glioma")
        case "stray image":
            save(0, root / "Training" / "stray.png")
        case "unreadable class":
            [path.write_bytes(b"") for path in none.iterdir()]
        case "nothing readable":
            [path.write_bytes(b"") for path in root.rglob("*.PNG")]
        case "no readable test":
            [path.write_bytes(b"") for path in (root / "Testing").rglob("*.PNG")]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no root", ["mri: no such folder"]),
        ("no test split", ["mri/Testing: no such split", "Training, Validation", "set --data.train and"]),
        ("no splits", ["mri/Training: no such split", "class folders only", "--data.split grouped"]),
        ("empty class", ["Training/meningioma: no images", "remove it"]),
        ("empty root", ["mri: no images"]),
        ("unknown class", ["Testing/glioma: unknown class 'glioma'", "cyst, none"]),
        ("stray image", ["Training/stray.png", "in no class folder"]),
        ("unreadable class", ["no readable image of class 'none'", "20 of its 26 files", "image (0).PNG: empty file"]),
        ("nothing readable", ["none of 52 images could be read", "empty file"]),
        ("no readable test", ["no readable image is left to test on"]),
    ],
)
def test_refuses_unusable_folders_in_one_line(root, kind, words):
    ruin(root, kind)
    with pytest.raises(UserError) as caught:
        build(root)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size 0"),
        ({"channels": 2}, "2 channels"),
        ({"split": "random"}, "'random'"),
        ({"test": "Training"}, "two different folders"),
        ({"split": "grouped", "holdout": 1.5}, "data.holdout=1.5: give a share"),
        ({"sites": "dicom"}, "data.sites=dicom: give --data.sites partition or header"),
        ({"layout": "klass"}, "'klass' is no level of folders: .*--data.layout split/class"),
        ({"layout": "site/patient"}, "the class must be named"),
        ({"partition": IID(41)}, "41 clients need 41 examples that are not duplicates, there are 40"),
    ],
)
def test_refuses_unusable_settings(root, settings, words):
    with pytest.raises(UserError, match=words):
        build(root, **settings)


def test_class_folders_without_splits_can_be_grouped(root):
    without_splits(root)
    federation = build(root, split="grouped")
    assert federation.labels.sum() + federation.tests["grouped test"].data.sizes.sum() == 40


def test_says_what_it_leaves_out(root):
    save(1000, root / "Extra" / "cyst" / "x.png")
    save(5, root / "Training" / "none" / "same as a cyst.png")
    federation = build(root)
    assert "unused images: 1, in Extra" in federation.warnings
    ((count, labels, _),) = table(federation.tables, "Duplicates with different labels")
    assert (count, labels) == (2, "cyst, none")


def test_another_folder_is_labelled_by_the_classes_of_the_run(root, tmp_path):
    for seed, name in enumerate(("none/a.png", "none/b.png", "later/cyst/c.png")):
        save(seed, tmp_path / "clinic" / name)
    (tmp_path / "clinic" / "none" / "bad.png").touch()
    tests, (quarantine,) = Folder(str(tmp_path / "clinic"), size=8).evaluation(("ache", *CLASSES), 0)
    data, owner = tests["clinic"]
    assert data.sizes.tolist() == [3] and owner.tolist() == [-1] and len(quarantine.rows) == 1
    batch = data.read(data.store, jnp.int32(0), jnp.arange(3))
    assert batch["image"].shape == (3, 8, 8, 1) and sorted(batch["label"].tolist()) == [1, 2, 2]
    with pytest.raises(UserError, match="none: unknown class 'none', training knows cyst, glioma"):
        Folder(str(tmp_path / "clinic")).evaluation(("cyst", "glioma"), 0)


PARTS = [np.array([4, 1]), np.array([], int), np.array([0, 2, 5]), np.array([3]), np.array([], int)]


def read_loop(data, client, indices):
    """The same read inside a while loop, summed over three passes."""
    zero = jnp.zeros(indices.shape, jnp.int32)
    step = lambda state: (state[0] + jnp.int32(1), state[1] + data.read(data.store, client, indices)["value"])  # noqa: E731
    return jax.lax.while_loop(lambda state: state[0] < 3, step, (jnp.int32(0), zero))[1] // 3


def test_resident_reads_its_own_examples_in_every_transformation():
    data = resident({"value": np.arange(100, 106, dtype=np.int32), "image": np.zeros((6, 4, 4, 1), np.uint8)}, PARTS)
    assert data.sizes.tolist() == [2, 0, 3, 1, 0] and data.sizes.dtype == np.int32
    clients, indices = jnp.arange(4, dtype=jnp.int32), jnp.arange(4, dtype=jnp.int32)
    values = lambda client: data.read(data.store, client, indices)["value"]  # noqa: E731
    mesh = jax.make_mesh((4,), ("clients",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec("clients")
    shards = jax.shard_map(jax.vmap(values), mesh=mesh, in_specs=spec, out_specs=spec)
    plain = np.stack([values(client) for client in clients])
    assert [row[: len(part)].tolist() for row, part in zip(plain, PARTS)] == [[104, 101], [], [100, 102, 105], [103]]
    assert plain[0].tolist() == [104, 101, 101, 101]
    for way in (jax.vmap(values), shards, jax.vmap(partial(read_loop, data, indices=indices))):
        np.testing.assert_array_equal(jax.jit(way)(clients), plain)


@pytest.mark.parametrize("client", [1, 4])
def test_an_empty_client_reads_something_finite(client):
    data = resident({"value": np.arange(1.0, 7.0, dtype=np.float32)}, PARTS)
    batch = jax.jit(data.read)(data.store, jnp.int32(client), jnp.arange(8, dtype=jnp.int32))
    assert ((batch["value"] >= 1) & (batch["value"] <= 6)).all()


def test_resident_refuses_to_hold_nothing():
    with pytest.raises(UserError, match="none of the 2 clients"):
        resident({"value": np.arange(3)}, [np.array([], int)] * 2)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real images are not there: {REAL}")
def test_real_brain_tumour_slices(monkeypatch):
    """Both splits are of the same 2609 images, which are read once."""
    kept, load = {}, folder.load_images
    monkeypatch.setattr(
        folder, "load_images", lambda *given: kept.get(str(given)) or kept.setdefault(str(given), load(*given))
    )
    published = build(REAL, size=96, partition=Sizes((5000, 6000, 6500, 5401)))
    assert published.train.sizes.tolist() == [501, 602, 652, 542]
    leaks = table(published.tables, "Test images with a twin in training")
    assert leaks[2] == ("no_tumor", 82, 82, 0)
    assert leaks[-1][:3] == ("all", 312, 201) and 0 < leaks[-1][3] < 20
    grouped = build(REAL, size=96, split="grouped", partition=Dirichlet(20, 0.5))
    assert table(grouped.tables, "Test images with a twin in training")[-1] == ("all", 392, 0, 0)
    assert grouped.labels.sum() == 2609 - 392  # 15 % of 2609
