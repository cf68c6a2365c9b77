"""Tables of image files and data sets of tensorflow_datasets, as they are published: read right, or one line."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.image_table import ImageTable
from fedjax_mri.data.partition import IID
from fedjax_mri.data.tfds import TFDS, decode_record

KINDS = ("nv", "mel", "bcc")
N = 48


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC)


def shown(seed: int) -> bytes:
    """The image as a source of 24 px gives it: 20 rows in the middle of a black square."""
    square = np.zeros((24, 24, 3), np.uint8)
    square[2:22] = np.asarray(picture(seed))
    return square.tobytes()


@pytest.fixture
def home(tmp_path) -> pathlib.Path:
    """Dermoscopy as it is published: names without endings, images in two folders, several images of a lesion."""
    for number in range(N):
        folder = tmp_path / f"images_part_{1 + number % 2}"
        folder.mkdir(exist_ok=True)
        picture(number).save(folder / f"ISIC_{number:04}.png")
    return tmp_path


def write(home: pathlib.Path, rows: list[dict], mark: str = ",", name: str = "metadata.csv", lead: str = "") -> str:
    lines = [mark.join(rows[0])] + [mark.join(map(str, row.values())) for row in rows]
    (home / name).write_text(lead + "\n".join(lines) + "\n", encoding="utf-8")
    return str(home / name)


def rows(**more) -> list[dict]:
    columns = {name: list(values) for name, values in more.items()}
    return [
        {
            "lesion_id": f"HAM_{number // 2}",
            "image_id": f"ISIC_{number:04}",
            "dx": KINDS[number // 2 % 3],
            **{name: values[number] for name, values in columns.items()},
        }
        for number in range(N)
    ]


def build(table: str, **settings):
    wanted = {"path": "image_id", "label": ("dx",), "size": 24, "channels": 3, "partition": IID(2), **settings}
    return check.build_source(ImageTable(table, **wanted), 0)


def held(federation) -> dict[bytes, str]:
    """The class of every image, of all sides."""
    data = [federation.train, *(test.data for test in federation.tests.values())]
    return {
        np.asarray(image).tobytes(): federation.classes[label]
        for one in data
        for image, label in zip(one.store.fields["image"], one.store.fields["label"])
    }


@pytest.mark.parametrize(("mark", "lead"), [(",", ""), ("\t", "\ufeff"), (";", "")], ids=["CSV", "TSV with BOM", ";"])
def test_a_published_table_gives_every_image_its_class(home, mark, lead) -> None:
    federation = build(write(home, rows(), mark, lead=lead), patient="lesion_id")
    assert federation.classes == tuple(sorted(KINDS)) and list(federation.tests) == ["test", "validation"]
    assert held(federation) == {shown(number): KINDS[number // 2 % 3] for number in range(N)}


def test_lesions_stay_together_and_sites_are_hospitals(home) -> None:
    table = write(home, rows(site=["Vienna", "Vienna", "Rosendahl", "Rosendahl"] * (N // 4)))
    federation = build(table, patient="lesion_id", site="site", holdout=0.25, validation=0.2)
    (clients,) = [one for one in federation.tables if one.title == "Clients"]
    assert [row[0] for row in clients.rows] == ["Rosendahl", "Vienna"]
    number = {shown(one): one for one in range(N)}
    seen = []
    for data in [federation.train, *(test.data for test in federation.tests.values())]:
        for images in np.split(data.store.fields["image"], data.store.offset[1:]):
            seen.append({number[np.asarray(image).tobytes()] // 2 for image in images})
    assert sum(map(len, seen)) == N // 2 == len(set.union(*seen))
    assert all(len({lesion % 2 for lesion in lesions}) == 1 for lesions in seen)
    assert [{lesion % 2 for lesion in lesions} for lesions in seen[:2]] == [{1}, {0}], "Vienna has the even ones"


def test_a_split_column_and_columns_of_each_class(home) -> None:
    splits = [("train", "val", "test", "train")[number // 6 % 4] for number in range(N)]
    one_hot = {kind: [int(number // 2 % 3 == place) for number in range(N)] for place, kind in enumerate(KINDS)}
    one_hot["nv"][0] = 0  # without any class
    federation = build(write(home, rows(split=splits, **one_hot)), split="split", label=KINDS, patient="lesion_id")
    assert federation.classes == KINDS and federation.labels.sum(0).tolist() == [7, 8, 8]
    assert [int(test.data.sizes.sum()) for test in federation.tests.values()] == [12, 12]
    assert any("1 of 48 rows have no label and are left out" in line for line in federation.warnings)


def test_a_missing_file_is_quarantined(home) -> None:
    (home / "images_part_1" / "ISIC_0004.png").unlink()
    federation = build(write(home, rows()))
    (quarantined,) = [one for one in federation.tables if one.title == "Quarantined files"]
    assert len(quarantined.rows) == 1 and "ISIC_0004" in quarantined.rows[0][0]
    assert len(held(federation)) == N - 1


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"path": "file"}, "no column 'file', found lesion_id, image_id, dx"),
        ({"split": ["train", "test"] * (N // 2)}, {"split": "split", "patient": "lesion_id"}, "more than one split"),
        (
            {"site": ["a", "b"] * (N // 2)},
            {"site": "site", "patient": "lesion_id"},
            r"24 patients are in .* site \(HAM_",
        ),
        ({"split": ["fold1"] * N}, {"split": "split"}, "split 'fold1' of ISIC_0000: give one of"),
        ({"site": [""] * N}, {"site": "site"}, "48 files name no site, such as .*ISIC_0000.*leave out --data.site"),
        ({"image_id": ["ISIC_0000"] * N}, {}, "ISIC_0000.png is in several rows"),
        ({"image_id": [f"x{number}" for number in range(N)]}, {}, "there is no file x0 below"),
        ({"dx": [""] * N}, {}, "no row has a label in dx"),
    ],
)
def test_tables_that_do_not_fit_are_one_line(home, change, settings, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build(write(home, rows(**change)), **settings)
    assert "\n" not in str(caught.value)


def test_a_name_of_two_files_and_files_that_are_no_table_are_one_line(home) -> None:
    picture(0).save(home / "images_part_2" / "ISIC_0000.png")
    with pytest.raises(UserError, match=r"ISIC_0000 may be .*part_1/ISIC_0000.png and .*part_2/ISIC_0000.png"):
        build(write(home, rows()))
    (home / "bytes.csv").write_bytes(b"\xff\xfe\x00path,label\n")
    (home / "head.csv").write_text("image_id,dx\n")
    (home / "book.csv").write_bytes(b"PK\x03\x04\x14\x00")
    with pytest.raises(UserError, match=r"book.csv: a spreadsheet and no table of text: save it as CSV there"):
        build(str(home / "book.csv"))
    for name, words in {"bytes": "not a table in UTF-8", "head": "no rows below", "none": "No such file"}.items():
        with pytest.raises(UserError, match=words):
            build(str(home / f"{name}.csv"))


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> str:
    """A data set of 36 images in train and 12 in test, as its own builder writes it, from encoded files."""
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))

    class Skin(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=list(KINDS)),
                "patient": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(range(36)), "test": self._generate_examples(range(36, N))}

        def _generate_examples(self, numbers):
            for number in numbers:
                file = io.BytesIO()
                picture(number).save(file, "PNG")
                file.seek(0)
                yield number, {"image": file, "label": number // 2 % 3, "patient": f"P{number // 2}"}

    Skin(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_floats_of_a_record_are_shown_as_integers_are() -> None:
    pixels = np.asarray(picture(3))
    plain, floats = (decode_record(one, 24, 3).pixels for one in (pixels, pixels.astype(np.float32) / 255))
    np.testing.assert_array_equal(plain, floats)


@pytest.mark.parametrize("cached", [False, True])
def test_a_tfds_data_set_is_read_without_tensorflow(records, cached, tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = TFDS("skin", records, patient="patient", size=24, channels=3, cached=cached, partition=IID(2))
    federation = check.build_source(source, 0)
    assert "tensorflow" not in sys.modules and federation.classes == KINDS
    test = federation.tests["test"].data
    assert int(test.sizes.sum()) == 12 and int(federation.tests["validation"].data.sizes.sum()) > 0
    if not cached:
        assert held(federation) == {shown(number): KINDS[number // 2 % 3] for number in range(N)}
    tests, _ = source.evaluation(("other", *KINDS), 0)
    assert int(tests["skin"].data.sizes.sum()) == N


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "nosuch"}, "nosuch: Dataset nosuch not found.* check data.name and data.folder"),
        ({"name": "beans"}, "the data set is not there: set data.folder, or give --data.download"),
        ({"label": "kind"}, "skin: no ClassLabel feature 'kind', found label: set data.label"),
    ],
)
def test_a_tfds_data_set_that_does_not_fit_is_one_line(records, settings, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        TFDS(**{"name": "skin", "folder": records, **settings}).build(0)
    assert "\n" not in str(caught.value)
