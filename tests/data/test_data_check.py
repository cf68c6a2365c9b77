"""What a source may hand over: each mistake is one line that names the source, the field, its values and the remedy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.contract import ClientData, Federation, Test
from fedjax_mri.data.phantom import Phantom, SiteModel
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.data.resident import resident
from fedjax_mri.data.streamed import streamed
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import experiment
from fedjax_mri.run.assemble import describe
from fedjax_mri.run.config import Experiment
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN
from fedjax_mri.tasks.fusion import Fuse

PARTS = np.split(np.arange(12), [5, 5, 8])  # the second client is empty
LABELS = np.array([0, 1, 2] * 4, np.int32)
GREYS = np.linspace(0, 1, 12 * 64, dtype=np.float32).reshape(12, 8, 8, 1)
CLASSIFY = {"image": "grey", "label": "class"}
TRANSLATE = {"ct": "hu", "mr": "unit"}
PICTURES = {"ct": "unit", "mr": "unit"}


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    return {"image": GREYS, "label": LABELS, **changes}


def counts(labels: np.ndarray = LABELS) -> np.ndarray:
    return np.stack([np.bincount(labels[part], minlength=3) for part in PARTS]).astype(np.int32)


def federation(data: ClientData, **changes: Any) -> Federation:
    test = Test(data, np.arange(4, dtype=np.int32))
    return Federation(data, {"again": test}, ("a", "b", "c"), counts())._replace(**changes)


@dataclass(frozen=True)
class Ward:
    """Hands over what it is told to."""

    make: Callable[[], Any]

    def build(self, seed: int) -> Any:
        """What was asked for."""
        return self.make()


def look(make: Callable[[], Any], reads: Any) -> None:
    """All checks of a run, and every client's examples."""
    built = check.contents(check.build_source(Ward(make), 0), reads, "Ward")
    check.computed(built, reads, "Ward")
    for data in (built.train, *(test.data for test in built.tests.values())):
        for client in range(len(data.sizes)) if data.fetch is not None else ():
            data.fetch(client)


def scaled(data: ClientData, by: float) -> ClientData:
    """Examples that are computed from those in memory."""

    def read(store: Any, client: jax.Array, indices: jax.Array) -> Any:
        batch = data.read(store, client, indices)
        return {**batch, "image": batch["image"] * by}

    return data._replace(read=read, fetch=None)


def nan(row: int) -> np.ndarray:
    image = GREYS.copy()
    image[row, 0, :2] = np.nan
    return image


HELD = resident(arrays(), PARTS)
RANGE = "which is no HU; give HU as int16 or float32, or set task.window to None and give floats from 0 to 1"
STRUCTURE = [  # what `build` gives, and the line
    (lambda: {"train": HELD}, ": Ward.build returns a dict; return a Federation"),
    (lambda: None, "Ward.build returns None; is a return missing?"),
    (lambda: federation(arrays()), "data: Ward: train is a dict; give a ClientData"),
    (lambda: federation(HELD, tests={"again": HELD}), "data: Ward: test set 'again' is a ClientData; give Test("),
    (lambda: federation(HELD._replace(sizes=[5, 0, 3, 4])), "data: Ward: train: sizes [5, 0, 3, 4]: give int32 [N]"),
    (lambda: federation(HELD._replace(sizes=HELD.sizes - 9)), "give int32 [N], the examples of each client"),
    (lambda: federation(HELD, labels=counts()[:, :2]), "labels has the shape [4, 2]; give counts [clients, classes]"),
    (lambda: federation(HELD, classes=("a", "b")), "labels has the shape [4, 3]; give counts [clients, classes], here"),
    (lambda: federation(HELD, labels=counts() / 2), "labels are float64 from 0.0; give counts, int32 0 or more"),
    (
        lambda: federation(HELD, tests={"none": Test(HELD._replace(sizes=0 * HELD.sizes), np.arange(4))}),
        "data: Ward: test set 'none' has no example; fill it or leave it out",
    ),
    (
        lambda: federation(HELD._replace(sizes=0 * HELD.sizes)),
        "data: Ward: no client has an example; give at least one of them data",
    ),
    (
        lambda: federation(HELD, tests={"again": Test(HELD, np.arange(1, 5))}),
        "owner 1 to 4; give a training client, 0 to",
    ),
    (lambda: federation(HELD, tests={"again": Test(HELD, np.arange(3))}), "owner must be int32 [M], one for each"),
    (lambda: federation(HELD, groups={"kind": np.array(["x"])}), "data: Ward: groups 'kind': give one for each client"),
    (lambda: federation(HELD, images=("ct",)), "images are in 'ct', train holds image, label; set `images`"),
    (
        lambda: federation(resident(arrays(image=GREYS[..., 0]), PARTS)),
        "'image' of an example has the shape [8, 8]; give [H, W, C] or [D, H, W, C]: add an axis for the channel, "
        "image[..., None]",
    ),
    (
        lambda: federation(
            HELD, tests={"large": Test(resident(arrays(image=GREYS.repeat(2, 1)), PARTS), np.arange(4))}
        ),
        "'image' is [16, 8, 1] in test set 'large', [8, 8, 1] before; make it one",
    ),
    (
        lambda: federation(resident(arrays(label=LABELS[:7]), PARTS)),
        "the arrays of the examples differ in length: 'image' 12, 'label' 7; give a row for each example",
    ),
    (lambda: federation(resident(arrays(), [*PARTS, [12]])), "client 4 has indices from 12 to 12: give 0 to 11"),
    (
        lambda: federation(streamed(arrays(label=LABELS[:7]), PARTS)),
        "the arrays of the examples differ in length: 'image' 12, 'label' 7; give a row for each example",
    ),
    (
        lambda: federation(resident(arrays(label=np.array(list("abc" * 4))), PARTS)),
        "array 'label' is of <U1: give integers, floats or bools",
    ),
    (
        lambda: federation(resident(arrays(image=GREYS.astype(object)), PARTS)),
        "array 'image' is of object: give integers, floats or bools",
    ),
]


@pytest.mark.parametrize("row", range(len(STRUCTURE)))
def test_what_is_no_federation_is_one_line(row) -> None:
    make, says = STRUCTURE[row]
    with pytest.raises(UserError) as error:
        look(make, CLASSIFY)
    assert says in str(error.value) and "\n" not in str(error.value)


def pair(ct: np.ndarray, mr: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": mr, "ct": ct, "mr": mr, "label": LABELS}


BYTES = (GREYS * 255).astype(np.uint8)
CONTENTS = [  # arrays, what a task reads, and the line
    (arrays(image=GREYS * 255), CLASSIFY, "'image' is float32 from 0 to 255, not from 0 to 1: divide by 255, or hand "),
    (arrays(image=GREYS * 4095), CLASSIFY, "from 0 to 4095, not from 0 to 1: divide by the largest grey level"),
    (arrays(image=GREYS * 2000 - 1000), CLASSIFY, "'image' is float32 from -1000 to 1000, not from 0 to 1: scale them"),
    (arrays(label=LABELS + 1), CLASSIFY, "'label' is from 1 to 3; the 3 classes (a, b, c) are 0 to 2: subtract 1"),
    (arrays(label=LABELS - 1), CLASSIFY, "'label' is from -1 to 1; the 3 classes (a, b, c) are 0 to 2: number the"),
    (arrays(label=LABELS + 3), CLASSIFY, "'label' is from 3 to 5; the 3 classes (a, b, c) are 0 to 2: number the"),
    (arrays(label=LABELS.astype(float)), CLASSIFY, "'label' is float32 [12]; give a label int32 for each example, [n]"),
    (arrays(label=np.eye(3)[LABELS]), CLASSIFY, "'label' is float32 [12, 3]; give a label int32 for each example"),
    (
        arrays(image=nan(7)),
        CLASSIFY,
        "'image': 2 values in 1 of 12 examples are NaN or inf, first in example 7; replace them, or leave",
    ),
    (arrays(age=nan(3)), CLASSIFY, "'age': 2 values in 1 of 12 examples are NaN or inf, first in example 3"),
    ({"image": GREYS, "labels": LABELS}, CLASSIFY, "the task reads 'label', the examples hold image, labels; add it"),
    (arrays(), TRANSLATE, "the task reads 'ct', the examples hold image, label; add it"),
    (
        pair(BYTES, GREYS),
        TRANSLATE,
        "'ct' is uint8, which holds no HU; give HU as int16 or float32, or set task.window",
    ),
    (pair(GREYS, GREYS), TRANSLATE, f"'ct' is float32 from 0 to 1, {RANGE}"),
    (pair(GREYS * 900, BYTES), TRANSLATE, "'mr' is uint8; give floats from 0 to 1 (of uint8: divide by 255)"),
    (pair(GREYS * 900, GREYS * 255), TRANSLATE, "'mr' is float32 from 0 to 255, not from 0 to 1: divide by 255"),
    (pair(GREYS * 900 - 400, GREYS), PICTURES, "'ct' is float32 from -400 to 500, not from 0 to 1: scale them"),
]
KINDS = {"resident": resident, "streamed": streamed}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", range(len(CONTENTS)))
def test_examples_that_a_task_cannot_read_are_one_line(row, kind) -> None:
    fields, reads, says = CONTENTS[row]
    with pytest.raises(UserError) as error:
        look(lambda: federation(KINDS[kind](fields, PARTS)), reads)
    if kind == "resident":
        assert says in str(error.value)
    assert str(error.value).startswith("data: Ward: train") and "\n" not in str(error.value)


def test_computed_examples_are_looked_at_as_well() -> None:
    look(lambda: federation(scaled(HELD, 1.0)), CLASSIFY)
    for by, says in (
        (255.0, "'image' is float32 from 0 to 255"),
        (float("nan"), "in 16 of 16 examples are NaN"),
    ):
        with pytest.raises(UserError, match=says):
            look(lambda by=by: federation(scaled(HELD, by)), CLASSIFY)
    with pytest.raises(UserError, match="data: Ward: train: the task reads 'ct', the examples hold image, label"):
        look(lambda: federation(scaled(HELD, 1.0)), TRANSLATE)


def test_a_test_set_is_looked_at_as_well() -> None:
    bad = Test(resident(arrays(image=GREYS * 255), PARTS), np.arange(4))
    with pytest.raises(UserError, match="data: Ward: test set 'clinic': 'image' is float32 from 0 to 255"):
        look(lambda: federation(HELD, tests={"clinic": bad}), CLASSIFY)


def test_a_streamed_example_is_looked_at_when_it_is_fetched() -> None:
    fetched = []

    class Records:
        """Scans of which the last is broken."""

        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> dict:
            fetched.append(index)
            return {"image": nan(11)[index], "label": LABELS[index]}

    data = check.contents(federation(streamed(Records(), PARTS)), CLASSIFY, "Ward").train
    assert len(fetched) < 12 and len(data.fetch(0)["label"]) == 5
    with pytest.raises(UserError, match=r"data: Ward: train, client 3: 'image': 2 values in 1 of 4 examples are NaN"):
        data.fetch(3)


GOOD = [
    (arrays(), CLASSIFY),
    (arrays(image=BYTES), CLASSIFY),
    (arrays(image=GREYS.astype(np.float64)), CLASSIFY),
    (arrays(image=(GREYS * 4095).astype(np.uint16)), CLASSIFY),
    (arrays(image=(GREYS - 0.5) * 8), CLASSIFY),  # standardised
    (arrays(image=GREYS * 1.05 - 0.02), CLASSIFY),  # interpolated
    (arrays(image=GREYS[:, :1, :1] * 300), CLASSIFY),  # features, no pixels
    (arrays(image=GREYS * 4095), {"image": "any", "label": "class"}),  # the task standardises them
    (arrays(image=GREYS[:, None]), CLASSIFY),  # volumes
    (arrays(label=LABELS.astype(np.int64)), CLASSIFY),
    (arrays(label=GREYS[:, 0, 0, 0]), {"image": "grey"}),  # a regression, of no class
    (pair(GREYS * 900 - 400, GREYS), TRANSLATE),
    (pair((GREYS * 900).astype(np.int16), GREYS), TRANSLATE),
    (pair(GREYS, GREYS), PICTURES),
]


@pytest.mark.parametrize("row", range(len(GOOD)))
def test_what_a_task_can_read_passes(row) -> None:
    fields, reads = GOOD[row]
    for kind in KINDS.values():
        look(lambda kind=kind: federation(kind(fields, PARTS)), reads)


def test_the_sources_of_the_package_pass() -> None:
    few = SiteModel(patients_mean=3.0, patients_min=2, patients_max=4)
    small = Phantom(clients=3, test_clients=2, test_patients=2, sites=few)
    both = {"ct": "hu", "mr": "unit"}
    for source, reads in (
        (small, {**CLASSIFY, **both}),
        (Precomputed(Synthetic(clients=4)), CLASSIFY),
        (Pooled(Precomputed(Synthetic(clients=4))), CLASSIFY),
        (Synthetic(clients=4), CLASSIFY),
    ):
        check.computed(check.contents(check.build_source(source, 0), reads, "it"), reads, "it")


def test_tasks_say_what_they_read() -> None:
    described, compute = describe(federation(HELD)), Compute()

    def reads(task: Any, channels: Any = described) -> dict[str, str]:
        return dict(task.build(channels, compute).reads)

    task = Classify(network=CNNSettings(widths=(4,)))
    assert reads(task) == CLASSIFY
    scaled_by_task = replace(task, preprocess=replace(task.preprocess, normalise="zscore"))
    assert reads(scaled_by_task) == {"image": "any", "label": "class"}
    images = described._replace(image=(32, 32, 1))
    assert reads(CycleGAN(), images) == TRANSLATE and reads(CycleGAN(window=None), images) == PICTURES
    assert reads(Fuse(), images) == {"ct": "hu", "mr": "grey", "label": "class"}


def test_a_source_without_test_sets_of_its_own_is_named() -> None:
    with pytest.raises(UserError, match="data: Ward: has no `evaluation`"):
        check.evaluation(Ward(lambda: None), ("a",), 0)


def test_a_mistake_is_found_before_anything_is_written(tmp_path) -> None:
    """The class of the source is named."""

    @dataclass(frozen=True)
    class Bright:
        """Floats up to 255."""

        def build(self, seed: int) -> Federation:
            """Refused."""
            return federation(resident(arrays(image=GREYS * 255), PARTS))

    task = Classify(network=CNNSettings(widths=(4,)))
    config = Experiment(data=Bright(), task=task, sampling=Everyone(), rounds=1, plan=Plan(tune_s=0))
    with pytest.raises(UserError, match="data: Bright: train: 'image' is float32 from 0 to 255"):
        experiment.run(config, tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run" / "config.json").exists()


def test_jax_arrays_in_a_store_are_looked_at() -> None:
    store = HELD.store._replace(fields={name: jnp.asarray(x) for name, x in HELD.store.fields.items()})
    look(lambda: federation(HELD._replace(store=store)), CLASSIFY)


def test_what_this_package_computes_is_not_looked_at_again() -> None:
    """Unless some of it is a user's."""
    assert check.is_of_this_package(Pooled(Phantom())) and not check.is_of_this_package(Pooled(Ward(lambda: None)))
