"""DICOM series and NIfTI volumes as a scanner writes them: class folders, two folders of CT and MR, and the cache."""

import functools
import itertools
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.files import read, units
from fedjax_mri.data.files.scan import Limits
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.image_table import ImageTable
from fedjax_mri.data.labelled_pairs import LabelledPairs
from fedjax_mri.data.partition import IID
from fedjax_mri.data.scans import ReadSettings
from fedjax_mri.data.unpaired_folders import UnpairedFolders
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder
from fedjax_mri.run.assemble import describe

SCRIPT = Path(__file__).parents[2] / "scripts" / "phantom_dicom.py"


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Gives the folder of four patients of each of three institutions, three slices each, in a layout and files."""
    made: dict[tuple[str, str], Path] = {}

    def written(layout: str, files: str) -> Path:
        if (layout, files) not in made:
            out = tmp_path_factory.mktemp("scans") / files
            words = ["--sites", "3", "--patients", "4", "--slices", "3", "--layout", layout, "--files", files]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [str(SCRIPT), str(out), *words])
                runpy.run_path(str(SCRIPT), run_name="__main__")
            made[layout, files] = out
        return made[layout, files]

    return written


def held(data, field: str = "image") -> list[list[bytes]]:
    """The images of each client."""
    store = data.store
    return [[np.asarray(image).tobytes() for image in own] for own in np.split(store.fields[field], store.offset[1:])]


def test_class_folders_of_dicom_series_are_dealt_to_their_institutions(scans) -> None:
    root = scans("classes", "dicom")
    source = Folder(str(root), 48, split="grouped", layout="class/patient", sites="header", holdout=0.3, validation=0.3)
    federation = check.build_source(source, 0)
    assert set(federation.classes) == {path.name for path in root.iterdir()} and federation.modalities == ("mr",)
    assert len(federation.train.sizes) == 3, "one hospital for each institution"
    wanted, patient = {}, {}
    for path in sorted(root.rglob("*.dcm")):
        scan = read.read(path, "", Limits())
        shown = np.rint(255 * units.to_model(scan, "mr", None, (48, 48)))[0]
        wanted[path] = shown
        patient[path] = (path.parent.name[:3], path.parent.name)
    parts = [federation.train, *(test.data for test in federation.tests.values())]
    images = np.concatenate([part.store.fields["image"][..., 0] for part in parts]).astype(float)
    assert len(images) == len(wanted) == 36
    nearest = [min(wanted, key=lambda path: np.abs(wanted[path] - image).mean()) for image in images]
    assert len(set(nearest)) == 36 and max(np.abs(wanted[p] - i).mean() for p, i in zip(nearest, images)) < 12
    ends = np.cumsum([0, *(size for part in parts for size in part.sizes)])
    clients = [{patient[path] for path in nearest[a:b]} for a, b in itertools.pairwise(ends)]
    assert all(len({site for site, _ in own}) <= 1 for own in clients), "patients of one institution only"
    assert sum(map(len, clients)) == 12, "no patient in two places"


def test_class_folders_of_volumes_are_cut_and_patients_stay_together(scans) -> None:
    root = scans("classes", "nifti")
    source = Folder(str(root), 32, split="grouped", layout="class", partition=IID(2), holdout=0.3, validation=0.0)
    federation = check.build_source(source, 0)
    assert sum(int(part.sizes.sum()) for part in (federation.train, federation.tests["grouped test"].data)) == 36
    assert all(size % 3 == 0 for size in federation.train.sizes), "whole volumes of three slices"
    few = check.build_source(Folder(**{**vars(source), "reading": ReadSettings(slices=1)}), 0)
    assert int(few.train.sizes.sum() + few.tests["grouped test"].data.sizes.sum()) == 12


@pytest.mark.parametrize("files", ["dicom", "mixed"])
def test_two_folders_give_ct_in_hu_and_mr_of_patients_kept_apart(scans, files) -> None:
    root = scans("modalities", files)
    sites = "header" if files == "dicom" else "partition"
    source = UnpairedFolders(str(root), size=32, sites=sites, partition=IID(2), holdout=0.3, validation=0.3)
    federation = check.build_source(source, 0)
    assert list(federation.tests) == ["test", "validation"] and len(federation.train.sizes) == (
        3 if sites == "header" else 2
    )
    assert federation.window == (-100.0, 300.0) and federation.images == ("ct", "mr")
    parts = [federation.train, *(test.data for test in federation.tests.values())]
    for part in parts:
        ct, mr = part.store
        assert ct.size.tolist() == mr.size.tolist() and ct.fields["x"].min() <= -900 and ct.fields["x"].max() >= 200
    slices = [image.tobytes() for part in parts for store in part.store for image in store.fields["x"]]
    assert len(slices) == len(set(slices)) <= 72
    batch = federation.train.read(federation.train.store, jnp.int32(0), jnp.arange(3, dtype=jnp.int32))
    assert batch["ct"].dtype == jnp.float32 and float(batch["ct"].max()) > 200 and float(batch["mr"].max()) <= 1
    first = federation.tests["test"].data
    assert "unpaired" in first.read(first.store, jnp.int32(0), jnp.zeros(1, jnp.int32)) and "unpaired" not in batch


def table_of(root: Path, path: Path, **without: str) -> str:
    """A table of the CT and MR of each patient, who lacks what `without` says, with site and label."""
    names = sorted({one.name.split(".")[0] for one in (root / "ct").iterdir()})
    lines = ["ct,mr,label,site,patient"]
    for name in names:
        files = [next((root / kind).glob(f"{name}*")) for kind in ("ct", "mr")]
        cells = ["" if without.get(name) == file.parent.name else str(file.relative_to(root)) for file in files]
        lines.append(",".join([*cells, "ill" if int(name[-1]) % 2 else "well", name[:3], name]))
    path.write_text("\n".join(lines))
    return str(path)


def test_labelled_pairs_are_the_slices_of_both_with_what_is_missing(scans, tmp_path) -> None:
    root = scans("modalities", "mixed")
    table = table_of(root, tmp_path / "pairs.csv", S01P001="mr", S02P002="ct")
    source = LabelledPairs(table, str(root), site="site", patient="patient", size=32, holdout=0.3, validation=0.0)
    federation = check.build_source(source, 0)
    assert federation.classes == ("ill", "well") and len(federation.train.sizes) == 3
    parts = [federation.train, federation.tests["test"].data]
    assert sum(int(part.sizes.sum()) for part in parts) == 36
    fields = {name: np.concatenate([part.store.fields[name] for part in parts]) for name in parts[1].store.fields}
    assert federation.tables[0].rows == [("CT and MR", 30), ("CT only", 3), ("MR only", 3)]
    assert np.sum(fields["has"] == 0, 0).tolist() == [3, 3] and (fields["has"].max(1) == 1).all()
    for place, name in enumerate(("ct", "mr")):
        assert not fields[name][fields["has"][:, place] == 0].any()
    both = fields["has"].min(1) == 1
    head = fields["ct"][both] > -300  # a CT and an MR of one patient have the same outline
    brain = fields["mr"][both] > 25
    dice = 2 * (head & brain).sum((1, 2, 3)) / (head.sum((1, 2, 3)) + brain.sum((1, 2, 3)))
    assert dice.min() > 0.6
    batch = federation.train.read(federation.train.store, jnp.int32(0), jnp.arange(3, dtype=jnp.int32))
    assert batch["ct"].dtype == batch["mr"].dtype == jnp.float32 and float(batch["mr"].max()) <= 1


def test_pairs_of_unequal_numbers_of_slices_are_left_out_with_a_line(scans, tmp_path) -> None:
    root = scans("modalities", "dicom")
    lines = Path(table_of(root, tmp_path / "pairs.csv")).read_text().splitlines()
    short = tmp_path / "short"
    short.mkdir()
    for file in sorted((root / "mr" / "S01P001").iterdir())[:2]:
        (short / file.name).symlink_to(file)
    lines[1] = lines[1].replace("mr/S01P001", str(short))
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    source = LabelledPairs(str(tmp_path / "pairs.csv"), str(root), size=32, partition=IID(2))
    (line,) = [line for line in source.build(0).warnings if "left out" in line]
    assert "row 1 of the table (ct/S01P001) is left out: 3 slices of CT, 2 slices of MR" in line
    with pytest.raises(UserError, match="no column 'dose', found ct, mr, label"):
        LabelledPairs(str(tmp_path / "pairs.csv"), str(root), label="dose").build(0)


def test_pairs_that_cannot_be_one_are_left_out_with_the_reason(scans, tmp_path) -> None:
    """Two scans in one cell, a CT and an MR that cover different fields, and a scan that cannot be read."""
    root = scans("modalities", "nifti")
    lines = Path(table_of(root, tmp_path / "pairs.csv")).read_text().splitlines()
    both = tmp_path / "both"
    both.mkdir()
    for name in ("S01P001", "S01P002"):
        (both / f"{name}.nii.gz").symlink_to(root / "mr" / f"{name}.nii.gz")
    wide = nibabel.load(root / "mr" / "S01P002.nii.gz")
    nibabel.Nifti1Image(np.asarray(wide.dataobj), wide.affine @ np.diag([1.2, 1.2, 1, 1])).to_filename(
        tmp_path / "w.nii"
    )
    (tmp_path / "bad.nii").write_bytes(b"no volume")
    for row, name in enumerate((both, tmp_path / "w.nii", tmp_path / "bad.nii"), 1):
        lines[row] = lines[row].replace(f"mr/S01P00{row}.nii.gz", str(name))
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    source = LabelledPairs(str(tmp_path / "pairs.csv"), str(root), size=32, partition=IID(2))
    federation = source.build(0)
    said = [line.partition("left out: ")[2] for line in federation.warnings if "left out" in line]
    assert said[0] == "2 scans of MR; name the folder or the file of one"
    assert said[1].startswith("CT of 15 x ") and said[1].endswith("mm; register them")
    assert said[2].startswith("its MR cannot be read (of no kind that can be read: give one of DICOM")
    (table,) = source.evaluation(federation.classes, 0)[1]
    assert table.title == "Quarantined files" and "bad.nii" in table.rows[0][0]


def test_pictures_pair_as_well_and_are_not_in_hu(scans, tmp_path) -> None:
    rng, lines = np.random.default_rng(0), ["ct\tmr\tlabel\tsplit"]
    for number in range(12):
        cells = [f"{kind}{number}.png" for kind in ("ct", "mr")]
        for cell in cells:
            Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / cell)
        cells[1] = "" if number == 5 else cells[1]
        lines.append("\t".join([*cells, "ab"[number % 2], ("train", "train", "test")[number // 2 % 3]]))
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    source = LabelledPairs(str(tmp_path / "pairs.tsv"), split="split", size=16, partition=IID(1), validation=0.0)
    federation = check.build_source(source, 0)
    assert federation.window is None and federation.labels.tolist() == [[4, 4]] and not federation.pictures
    test = federation.tests["test"].data
    batch = test.read(test.store, jnp.int32(0), jnp.arange(4, dtype=jnp.int32))
    shown = {name: np.asarray(Image.open(tmp_path / f"{name}{number}.png")) for name in ("ct", "mr") for number in (4,)}
    found = [place for place in range(4) if np.allclose(batch["ct"][place, ..., 0] * 255, shown["ct"], atol=1e-3)]
    assert len(found) == 1 and np.allclose(batch["mr"][found[0], ..., 0] * 255, shown["mr"], atol=1e-3)
    assert sorted(np.asarray(batch["has"]).tolist()) == [[1, 0], [1, 1], [1, 1], [1, 1]]
    assert int(source.evaluation(("a", "b"), 0)[0]["pairs"].data.sizes.sum()) == 12
    with pytest.raises(UserError, match="unknown class 'b', training knows a"):
        source.evaluation(("a",), 0)


def test_a_modality_of_which_nothing_can_be_read_is_said_with_the_reason(scans, tmp_path) -> None:
    root = scans("modalities", "nifti")
    (tmp_path / "mr").symlink_to(root / "mr")
    (tmp_path / "ct").mkdir()
    for path in sorted((root / "ct").glob("*.nii.gz")):
        one = nibabel.load(path)
        nibabel.Nifti1Image(one.get_fdata(dtype=np.float32) + 1024, one.affine).to_filename(tmp_path / "ct" / path.name)
    with pytest.raises(UserError) as caught:
        UnpairedFolders(str(tmp_path), size=32, partition=IID(2)).build(0)
    said = str(caught.value)
    assert "no readable image of class 'ct'" in said and "12 of its 12 files could not be read, such as" in said
    assert "--data.reading.ct-offset) -1024" in said and "\n" not in said


def test_a_folder_of_ct_that_holds_mr_is_one_line(scans, tmp_path) -> None:
    root = scans("modalities", "dicom")
    (tmp_path / "ct").symlink_to(root / "mr")
    (tmp_path / "mr").symlink_to(root / "mr")
    with pytest.raises(UserError) as caught:
        UnpairedFolders(str(tmp_path), size=32).build(0)
    assert "\n" not in str(caught.value)


def test_the_cache_gives_the_same_images_from_a_file_and_knows_a_change(scans, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = scans("classes", "nifti")
    settings = {"size": 32, "split": "grouped", "layout": "class", "partition": IID(2), "holdout": 0.3}
    plain = Folder(str(root), **settings).build(0)
    source = Folder(str(root), **settings, reading=ReadSettings(cached=True))
    for _ in range(2):  # built, then found
        mapped = source.build(0)
        assert mapped.train.store is None and mapped.train.sizes.tolist() == plain.train.sizes.tolist()
        for client in range(2):
            ours, theirs = mapped.train.fetch(client), plain.train.fetch(client)
            np.testing.assert_array_equal(ours["image"], theirs["image"])
            np.testing.assert_array_equal(ours["label"], theirs["label"])
        assert len(list((tmp_path / "cache" / "fedjax_mri" / "images").iterdir())) == 1
    some = next(root.rglob("*.nii.gz"))
    some.touch()
    source.build(0)
    assert len(list((tmp_path / "cache" / "fedjax_mri" / "images").iterdir())) == 2


TINY_CNN = ("--task.network.widths", "4")
TINY_GAN = (
    *("--task.generator.width", "2", "--task.generator.blocks", "1", "--task.discriminator.width", "2"),
    *("--task.discriminator.halvings", "1", "--task.identity", "0", "--task.pool", "2", "--pictures", "False"),
)
TINY_FUSION = (
    *("--task.network.ct.width", "4", "--task.network.ct.stages", "1", "--task.network.mr.width", "4"),
    *("--task.network.mr.stages", "1", "--task.network.width", "4", "--task.network.hidden", "4"),
)


thorough = functools.partial(pytest.param, marks=pytest.mark.thorough)


@pytest.mark.parametrize(
    ("config", "layout", "files", "flags", "figure", "words"),
    [
        ("class_folders", "classes", "dicom", TINY_CNN, "validation/nll", "Hospital 3"),
        thorough(
            "class_folders",
            "classes",
            "nifti",
            ("--data.layout", "class", "--data.sites", "partition", "--data.partition.sizes", "1", "1", *TINY_CNN),
            "grouped test/nll",
            "Duplicates",
            id="NIfTI volumes",
        ),
        thorough(
            "unpaired_folders",
            "modalities",
            "mixed",
            ("--data.sites", "partition", "--data.partition.sizes", "1", "1", *TINY_GAN),
            "validation/cycle",
            "MR slices",
            id="CycleGAN of both",
        ),
        ("fusion_table", "modalities", "mixed", ("--data.patient", "patient", *TINY_FUSION), "test/nll", "CT and MR"),
    ],
)
def test_one_command_trains_on_scans_as_hospitals_have_them(
    scans, tmp_path, config, layout, files, flags, figure, words
) -> None:
    root, out = scans(layout, files), tmp_path / "run"
    where = ("--data.root", str(root))
    if config == "fusion_table":
        where = (*where, "--data.table", table_of(root, tmp_path / "pairs.csv", S01P001="mr"), "--data.site", "site")
    given = ["train", str(SCRIPT.parents[1] / "configs" / f"{config}.py"), *where, *flags]
    given += ["--data.size", "32", "--rounds", "1", "--data.holdout", "0.3", "--data.validation", "0.3"]
    assert cli.main([*given, "--plan.tune-s", "0", "--plan.devices", "1", "--plan.lanes", "1", "--out", str(out)]) == 0
    first, last = runfolder.read_history(out)
    assert last["round"] == 1 and np.isfinite(last[figure]) and last[figure] != first[figure]
    assert words in (out / "report.html").read_text()


def test_a_cyclegan_takes_what_two_folders_give(scans) -> None:
    """The shipped config with a batch of that source: its loss has all terms, and its judgement all figures."""
    config = replace(configs.load(SCRIPT.parents[1] / "configs" / "unpaired_folders.py")[""], seed=0)
    source = replace(config.data, root=str(scans("modalities", "mixed")), size=32, sites="partition")
    federation = source.build(0)
    task = config.task.build(describe(federation), Compute("xla"))
    model, (phase,) = jax.eval_shape(task.init, jax.random.key(0)), task.phases
    index = jax.ShapeDtypeStruct((2,), jnp.int32)
    for data, calls in ((federation.train, True), (federation.tests["validation"].data, False)):
        batch = jax.eval_shape(lambda index, data=data: data.read(data.store, jnp.int32(0), index), index)
        batch["weight"] = jax.ShapeDtypeStruct((2,), jnp.float32)
        if calls:
            loss, _ = jax.eval_shape(phase.loss, *model, batch, jax.random.key(0))
            assert loss.shape == ()
        else:
            assert {"cycle", "made"} <= jax.eval_shape(task.evaluate, *model, batch).keys()


def test_images_of_one_series_in_two_classes_keep_their_own(scans, tmp_path) -> None:
    """A table, or class folders, may sort the slices of a series: each slice keeps the label of its own file."""
    files = sorted(scans("classes", "dicom").rglob("*.dcm"))
    table, folder = tmp_path / "slices.csv", tmp_path / "classes"
    rows = [f"{path},{'ab'[number % 2]},{number // 2}" for number, path in enumerate(files)]
    table.write_text("\n".join(["path,label,patient", *rows]))
    for number, path in enumerate(files):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[number % 2] / f"{number}.dcm").symlink_to(path)
    for source in (
        ImageTable(str(table), size=16, holdout=0.3, validation=0, partition=IID(2)),
        Folder(str(folder), 16, split="grouped", holdout=0.3, validation=0, partition=IID(2)),
    ):
        federation = check.build_source(source, 0)
        tests = sum(int(one.data.sizes.sum()) for one in federation.tests.values())
        assert int(federation.train.sizes.sum()) + tests == len(files)
        labels = [
            federation.train.store.fields["label"],
            *(one.data.store.fields["label"] for one in federation.tests.values()),
        ]
        assert np.bincount(np.concatenate(labels)).tolist() == [(len(files) + 1) // 2, len(files) // 2]


def test_masks_beside_volumes_are_no_images_and_a_volume_of_no_modality_is_said(scans, tmp_path) -> None:
    root = tmp_path / "volumes"
    for number, path in enumerate(sorted(scans("classes", "nifti").rglob("*.nii.gz"))):
        own = root / path.relative_to(scans("classes", "nifti")).parts[0]
        own.mkdir(parents=True, exist_ok=True)
        (own / f"p{number}.nii.gz").write_bytes(path.read_bytes())
        (own / f"p{number}_mask.nii.gz").write_bytes(path.read_bytes())
    federation = check.build_source(Folder(str(root), 16, split="grouped", validation=0, partition=IID(2)), 0)
    assert any("left out" in line and "masks that lie beside" in line for line in federation.warnings)
    assert any("is taken as MR" in line for line in federation.warnings)
