"""The files of a finished run are read under the names that they have always had, and written under the same ones."""

import json
import pathlib

import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import results, runfolder
from fedjax_mri.run.record import Explained

FACTS = {"name": "old", "environment": {"jax": "0"}, "classes": ["a", "b"], "tables": [], "warnings": []}
LINE = {"round": 3, "train/nll": 0.5, "seen sites/accuracy": 0.75, "seen sites/client_std": 0.0}
LABELS, PROBABILITIES = np.array([0, 1, 1]), np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], np.float32)


def saved(run: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """A run folder with these arrays in results.npz."""
    facts = {**FACTS, "synthetic": True, "headline": ["accuracy"]}
    contents = {
        "run.json": facts,
        "config.json": {"seed": 0, **dict.fromkeys(runfolder.NEEDED["config.json"], 0)},
        "timings.json": {"train": 2.0},
        "metrics.jsonl": LINE,
    }
    for name, content in contents.items():
        (run / name).write_text(json.dumps(content) + "\n")
    np.savez(run / "results.npz", **{"labels": np.ones((2, 2), int), "sampled": np.array("seen sites"), **arrays})
    return run


def classified(test: str) -> dict[str, np.ndarray]:
    """The arrays of a test set of two clients."""
    tally = {
        "confusion": np.ones((2, 2, 2)),
        "nll": np.ones(2),
        "weight": np.array([1, 2]),
        "bins": np.ones((2, 15, 3)),
    }
    kept = {"predictions": PROBABILITIES, "truth": LABELS, "client": np.array([0, 1, 1])}
    return {f"{test}/{name}": value for name, value in {**tally, **kept}.items()}


def test_a_run_that_classifies_is_read(tmp_path) -> None:
    shown = {"shown/image": np.zeros((1, 4, 4, 1)), "shown/truth": LABELS[:1], "shown/predictions": PROBABILITIES[:1]}
    owner, groups = {"seen sites/owner": np.array([0, 1])}, {"groups/field strength": np.array(["3 T", "1.5 T"])}
    run = saved(tmp_path, classified("seen sites") | owner | classified("new/sites") | shown | groups)
    record = results.load(run)
    assert list(record.tests) == ["seen sites", "new/sites"] and not record.translations
    test, other = record.tests.values()
    np.testing.assert_array_equal(test.probabilities, PROBABILITIES)
    np.testing.assert_array_equal(test.tally.weight, [1, 2])
    assert test.labels.tolist() == [0, 1, 1] and test.client.tolist() == [0, 1, 1] and test.owner.tolist() == [0, 1]
    assert test.examples.image.shape == (1, 4, 4, 1) and test.examples.mask is None
    assert other.owner is None and other.examples is None  # as in runs of older versions
    assert record.groups["field strength"].tolist() == ["3 T", "1.5 T"] and record.explained is None
    assert record.history[0].round == 3 and record.history[0].tests["seen sites"].pooled == {"accuracy": 0.75}
    assert results.headline(run) == "after round 3: seen sites: accuracy 0.7500"


def test_a_run_that_translates_is_read(tmp_path) -> None:
    fields = {
        "mr/ssim": np.ones(3),
        "mr/made": np.ones((3, 2)),
        "mr/real": np.zeros((3, 2)),
        "client": np.array([0, 0, 1]),
    }
    arrays = {f"seen sites/{name}": value for name, value in fields.items()}
    images = {name: np.full((1, 4, 4, 1), place) for place, name in enumerate(("ct", "mr", "made_mr", "back_ct"))}
    record = results.load(saved(tmp_path, arrays | {f"shown/{name}": value for name, value in images.items()}))
    made = record.translations["seen sites"].made
    assert not record.tests and list(made) == ["mr"]
    assert made["mr"].made_features.all() and not made["mr"].true_features.any()
    true, translated, back = record.translated_examples
    assert [one.max() for one in (true["ct"], true["mr"], translated["mr"], back["ct"])] == [0, 1, 2, 3]
    assert list(translated) == ["mr"] and list(back) == ["ct"] and results.examples(tmp_path) is None


def test_explanations_are_written_and_read_under_their_names(tmp_path) -> None:
    run = saved(tmp_path, classified("seen sites") | {"shown/image": np.zeros(1), "shown/truth": np.zeros(1)} | {
        "shown/predictions": np.zeros((1, 2))
    })  # fmt: skip
    given = Explained(
        rounds=np.array([1, 2]),
        truth=np.array([0]),
        image=np.zeros((1, 4, 4)),
        truth_probability=np.full((2, 1), 0.5),
        maps={"lrp": np.ones((2, 1, 4, 4))},
    )
    results.save_explained(run, given)
    with np.load(run / "explanations.npz") as file:
        assert set(file) == {"rounds", "truth", "image", "chance", "map/lrp"}
    found = results.load(run).explained
    np.testing.assert_array_equal(found.truth_probability, given.truth_probability)
    assert list(found.maps) == ["lrp"] and found.maps["lrp"].shape == (2, 1, 4, 4) and found.mask is None


def test_a_damaged_file_is_named(tmp_path) -> None:
    run = saved(tmp_path, classified("seen sites"))
    (run / "results.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"results.npz: missing or damaged; run `fedjax-mri train` again"):
        results.load(run)
