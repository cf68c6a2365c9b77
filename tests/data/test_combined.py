"""Classes merged, sources combined, and files that take the place of synthetic data."""

import pathlib
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import contract, resident
from fedjax_mri.data.combined import CombinedSources
from fedjax_mri.data.contract import VALIDATION, Federation
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.merge import MergeClasses
from fedjax_mri.data.partition import IID
from fedjax_mri.data.phantom.cases import given_patients
from fedjax_mri.data.phantom.thorax import Thorax
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.data.shift import LabelNoise
from fedjax_mri.data.standin import StandIn
from fedjax_mri.run.config import load

SIZES = (3, 0, 5)


CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"


@dataclass(frozen=True)
class Ward:
    """Three sites; each pixel of an image tells the source, the class and the number of the example."""

    source: int = 1
    classes: tuple[str, ...] = ("a", "b", "c")
    channels: int = 1
    sizes: tuple[int, ...] = SIZES
    size: int = 2
    computed: bool = False

    def build(self, seed: int) -> Federation:
        n = sum(self.sizes)
        labels = np.arange(n, dtype=np.int32) % len(self.classes)
        grey = (100 * self.source + 20 * labels + np.arange(n)).astype(np.uint8)
        image = np.broadcast_to(grey[:, None, None, None], (n, self.size, self.size, self.channels))
        data = resident.resident({"image": image, "label": labels}, np.split(np.arange(n), np.cumsum(self.sizes)[:-1]))
        if self.computed:
            read = data.read
            data = data._replace(read=lambda *place: as_computed(read(*place)), fetch=None)
        test = contract.Test(data, np.arange(len(self.sizes), dtype=np.int32))
        parts = np.split(labels, np.cumsum(self.sizes)[:-1])
        counts = np.stack([np.bincount(part, minlength=len(self.classes)) for part in parts]).astype(np.int32)
        return Federation(
            data, {"test": test, f"of {self.source}": test, VALIDATION: test}, self.classes, counts, synthetic=True
        )

    def evaluation(self, classes, seed):
        assert set(self.classes) <= set(classes)
        places = np.array([classes.index(one) for one in self.classes], np.int32)
        fields = {name: test._replace(data=renamed(test.data, places)) for name, test in self.build(seed).tests.items()}
        return fields, ()


def as_computed(batch):
    return {**batch, "image": batch["image"].astype(jnp.float32) / 255}


def renamed(data, places):
    fields = {**data.store.fields, "label": places[data.store.fields["label"]]}
    return resident.resident(fields, np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1]))


def everything(data) -> list[dict[str, np.ndarray]]:
    """All examples of each client, as `read` gives them."""
    store = resident.whole(data)
    return [
        jax.device_get(data.read(store, jnp.int32(client), jnp.arange(size, dtype=jnp.int32)))
        for client, size in enumerate(data.sizes)
    ]


@pytest.mark.parametrize("computed", [False, True])
def test_a_merge_keeps_sizes_and_images_and_renames_labels(computed) -> None:
    names = (("a", "ill"), ("b", "well"), ("c", "ill"), ("not there", "ill"))
    before = Ward(computed=computed).build(0)
    after = MergeClasses(Ward(computed=computed), names).build(0)
    assert after.classes == ("ill", "well") and after.train.sizes.tolist() == list(SIZES)
    np.testing.assert_array_equal(after.labels, np.stack([before.labels[:, [0, 2]].sum(1), before.labels[:, 1]], 1))
    for data, old in ((after.train, before.train), (after.tests["test"].data, before.tests["test"].data)):
        for one, other in zip(everything(data), everything(old)):
            np.testing.assert_array_equal(one["image"], other["image"])
            assert one["label"].tolist() == [[0, 1, 0][label] for label in other["label"]]
    if not computed:
        assert after.train.fetch(2)["label"].tolist() == everything(after.train)[2]["label"].tolist()


def test_a_merge_evaluates_by_the_classes_of_the_model_in_any_order() -> None:
    tests, _ = MergeClasses(Ward(), (("a", "ill"), ("b", "well"), ("c", "ill"))).evaluation(("well", "ill"), 0)
    assert [one["label"].tolist() for one in everything(tests["test"].data)] == [[1, 0, 1], [], [1, 0, 1, 1, 0]]


def test_a_class_without_a_new_name_is_refused() -> None:
    with pytest.raises(UserError, match="no new name for class 'c'"):
        MergeClasses(Ward(), (("a", "ill"), ("b", "well"))).build(0)


WARDS = CombinedSources((Ward(), Ward(2, ("x", "y"), 3, computed=True)), ("one", "two"))


def test_combined_hospitals_hold_what_they_hold_of_each_source() -> None:
    federation = WARDS.build(0)
    assert federation.classes == ("one: a", "one: b", "one: c", "two: x", "two: y") and federation.synthetic
    assert federation.train.sizes.tolist() == [6, 0, 10] and federation.image == (2, 2, 3)
    assert (federation.labels.sum(1) == federation.train.sizes).all() and federation.labels.shape == (3, 5)
    own = [everything(replace(source, computed=False).build(0).train) for source in WARDS.sources]
    for client, joined in enumerate(everything(federation.train)):
        greys = np.concatenate([one[client]["image"].max((1, 2, 3)) for one in own])
        np.testing.assert_array_equal(
            joined["image"], np.broadcast_to(greys[:, None, None, None], joined["image"].shape)
        )
        labels = np.concatenate([one[client]["label"] + offset for one, offset in zip(own, (0, 3))])
        np.testing.assert_array_equal(joined["label"], labels)
        assert np.bincount(joined["label"], minlength=5).tolist() == federation.labels[client].tolist()


def test_combined_tests_are_those_of_each_source_side_by_side() -> None:
    federation = WARDS.build(0)
    assert list(federation.tests) == ["test", "of 1", "of 2", "one: test", "two: test", VALIDATION]
    both, one, two = (federation.tests[name] for name in ("test", "one: test", "two: test"))
    assert both.owner.tolist() == [0, 1, 2, 0, 1, 2] and both.data.sizes.tolist() == [*SIZES, *SIZES]
    for found, expected in zip(everything(both.data), everything(one.data) + everything(two.data)):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {label for part in everything(two.data) for label in part["label"].tolist()} == {3, 4}


def test_combined_sources_are_evaluated_by_the_classes_of_the_model() -> None:
    classes = ("two: y", "two: x", "one: c", "one: b", "one: a")
    tests, _ = WARDS.evaluation(classes, 0)
    names = [[classes[label] for label in one["label"]] for one in everything(tests["test"].data)]
    assert names[0] == ["one: a", "one: b", "one: c"] and names[3] == ["two: x", "two: y", "two: x"]
    with pytest.raises(UserError, match="knows no class of two"):
        WARDS.evaluation(classes[2:], 0)


def test_the_pool_of_combined_sources_holds_all_examples() -> None:
    pooled, parts = Pooled(WARDS).build(0), everything(WARDS.build(0).train)
    (one,) = everything(pooled.train)
    for name in ("image", "label"):
        np.testing.assert_array_equal(one[name], np.concatenate([part[name] for part in parts]))


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ((Ward(), Ward(2, sizes=(1, 1))), "clients differ"),
        ((Ward(), Ward(2, size=4)), "give every source the same size"),
        ((Ward(), Ward(2, channels=2)), "images have 2 channels"),
        ((Ward(),), "give each of 1 sources a name"),
        ((Ward(), LabelNoise(Ward(2))), "changes with the round|change with the round"),
    ],
)
def test_sources_that_cannot_be_combined_are_refused(sources, says) -> None:
    with pytest.raises(UserError, match=says):
        everything(CombinedSources(sources, ("one", "two")).build(0).train)


def test_files_take_the_place_of_a_synthetic_source_where_a_folder_is_named(tmp_path) -> None:
    source = StandIn(Folder("", size=8, split="grouped", partition=IID(2)), Thorax(clients=3, size=16))
    assert source.build(0).synthetic and source.build(0).classes == ("normal", "pneumonia")
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / ("NORMAL", "PNEUMONIA")[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{number}.png")
    real = replace(source, root=str(tmp_path)).build(0)
    assert not real.synthetic and real.classes == ("NORMAL", "PNEUMONIA") and len(real.train.sizes) == 2
    tests, _ = replace(source, root=str(tmp_path)).evaluation(("PNEUMONIA", "NORMAL"), 0)
    assert sum(test.data.sizes.sum() for test in tests.values()) == 24


def test_dermoscopy_is_read_as_it_is_published(tmp_path) -> None:
    """HAM10000's table names pictures without their ending, which lie in two folders; lesions have several."""
    lines, rng = ["lesion_id,image_id,dx"], np.random.default_rng(0)
    for number in range(70):
        lines.append(f"HAM_{number // 2},ISIC_{number},{('nv', 'mel')[number // 2 % 2]}")
        path = tmp_path / f"HAM10000_images_part_{1 + number % 2}" / f"ISIC_{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).save(path)
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(lines))
    source = load(CONFIGS / "system_b_demo.py")["skin"].data
    federation = replace(source, root=str(tmp_path / "HAM10000_metadata.csv")).build(0)
    assert federation.classes == ("mel", "nv") and not federation.synthetic and len(federation.train.sizes) == 4
    images = federation.train.sizes.sum() + sum(test.data.sizes.sum() for test in federation.tests.values())
    assert images == 70 and federation.train.fetch(0)["image"].shape[1:] == (64, 64, 3)


def test_the_mixed_federation_of_system_b_has_the_sizes_of_its_hospitals() -> None:
    """Each data set dealt in proportion: 22,901 images in all, and to the image as many as are published."""
    experiments = load(CONFIGS / "system_b.py")
    chest, brain, skin = experiments["mixed"].data.sources
    phantoms = [chest.synthetic.source, brain.source.synthetic.source, skin.synthetic.source]
    sizes = np.sum([given_patients(one.sites, one.clients) for one in phantoms], 0)
    assert sizes.tolist() == [5000, 6000, 6500, 5401]
    assert [one.sites.patients_total for one in phantoms] == [5863, 7023, 10015]
    assert {one.size for one in phantoms} == {224} and experiments["mixed_centralised"].data.source == experiments[
        "mixed"
    ].data
    small = load(CONFIGS / "system_b_demo.py")
    assert small.keys() == experiments.keys()
    assert {one.synthetic.source.size for one in (small["chest"].data, small["skin"].data)} == {64}
