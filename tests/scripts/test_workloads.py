"""The workloads are what their names promise, the peers are pinned, and the comparison's table says what was seen."""

import json
import re
from collections import Counter

import compare
import numpy as np
import pytest
import workloads

CNNS = ("W1", "W2", "W3", "W4")
FILES = sorted((compare.HOME / "scripts" / "peers").glob("*/requirements.txt"))


@pytest.mark.parametrize(
    ("name", "clients", "images", "least", "most", "shape", "batch"),
    [
        ("W1", 32, 2_048, 64, 64, (32, 32, 1), 16),
        ("W2", 256, 16_384, 64, 64, (32, 32, 1), 16),
        ("W3", 64, 4_031, 16, 276, (32, 32, 1), 16),
        ("W4", 1_000, 49_820, 4, 3_988, (32, 32, 1), 16),
        ("W6", 10, 640, 64, 64, (64, 64, 1), 16),
        ("W7", 4, 32, 8, 8, (128, 128, 1), 1),
        ("W9", 2, 2, 1, 1, (256, 256, 1), 1),
        ("W10", 100, 50_000, 500, 500, (32, 32, 3), 50),
        ("W8", 100_000, 800_000, 8, 8, (8, 8, 1), 4),
        ("W11", 2, 8_192, 4_096, 4_096, (32, 32, 1), 64),
    ],
)
def test_sizes(name, clients, images, least, most, shape, batch) -> None:
    workload = workloads.WORKLOADS[name]
    assert (len(workload.sizes), workload.images, workload.image, workload.batch) == (clients, images, shape, batch)
    assert (workload.sizes.min(), workload.sizes.max()) == (least, most)
    assert workload.sizes.dtype == np.int32


def test_every_workload_is_there() -> None:
    assert {*workloads.WORKLOADS, *workloads.QUICKSTART} == {f"W{number}" for number in range(1, 13)}
    assert all((compare.HOME / config).exists() for config in workloads.QUICKSTART.values())


@pytest.mark.parametrize("name", ["W1", "W3", "W6"])
def test_images_are_seeded_and_tell_their_classes_apart(name) -> None:
    workload = workloads.WORKLOADS[name]
    images, labels = workloads.arrays(workload)
    assert images.shape == (workload.images, *workload.image) and images.dtype == np.uint8
    assert labels.shape == (workload.images,) and labels.dtype == np.int32
    np.testing.assert_array_equal(images, workloads.arrays(workload)[0])
    flat = images.reshape(len(images), -1).astype(np.float32)
    means = np.stack([flat[: len(flat) // 2][labels[: len(flat) // 2] == k].mean(0) for k in range(workload.classes)])
    unseen = flat[len(flat) // 2 :]
    nearest = (unseen @ means.T - (means**2).sum(1) / 2).argmax(1)
    assert (nearest == labels[len(flat) // 2 :]).mean() > 0.95


def test_pairs_are_of_two_modalities() -> None:
    first, second = workloads.pairs(workloads.WORKLOADS["W7"])
    assert first.shape == second.shape == (32, 128, 128, 1) and first.dtype == second.dtype == np.uint8
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < -0.9


def test_initial_weights() -> None:
    found = workloads.weights(workloads.WORKLOADS["W1"])
    assert {name: value.shape for name, value in found.items()} == {
        **{"conv1.kernel": (3, 3, 1, 32), "conv1.bias": (32,)},
        **{"conv2.kernel": (3, 3, 32, 64), "conv2.bias": (64,)},
        **{"dense.kernel": (4_096, 10), "dense.bias": (10,)},
    }
    assert all(value.dtype == np.float32 for value in found.values())
    np.testing.assert_allclose(found["conv2.kernel"].std(), (2 / 288) ** 0.5, rtol=0.02)
    again = workloads.weights(workloads.WORKLOADS["W2"])
    assert all(np.array_equal(value, again[name]) for name, value in found.items())
    with pytest.raises(ValueError, match="W7 trains cyclegan"):
        workloads.weights(workloads.WORKLOADS["W7"])


@pytest.mark.parametrize("name", CNNS)
def test_a_round_visits_each_example_once_and_each_round_in_another_order(name) -> None:
    workload = workloads.WORKLOADS[name]
    clients = range(len(workload.sizes))
    first, second = (np.concatenate([workloads.rows(workload, number, k) for k in clients]) for number in (0, 1))
    np.testing.assert_array_equal(np.sort(first), np.arange(workload.images))
    assert (first == second).mean() < 0.2
    np.testing.assert_array_equal(first[: workload.sizes[0]], workloads.order(workload, 0, 0))


def test_there_are_seven_peers_that_train_one_that_explains_and_two_that_sum() -> None:
    assert all((file.parent / "run.py").exists() for file in FILES)
    trains = {folder for folder, _ in compare.PEERS.values()}
    assert len(trains) == 7 and trains | {"byzfl", "captum", "secagg"} == {file.parent.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_requirements_are_exact_and_name_no_index(file) -> None:
    for line in file.read_text().splitlines():
        assert re.fullmatch(r"[a-z][a-z0-9-]*(\[[a-z]+\])?==\d+(\.\d+)+", line), line


def made_up(seconds: float, **more) -> dict:
    return {"median_s": seconds, "first_round_s": 3.0, "peak_mb": 400.4, "versions": {"torch": "2.13.0"}, **more}


LINES = {
    ("W1", "fedjax_mri"): [made_up(s, compile_s=2.0) for s in (0.5, 0.4, 9.0)],
    ("W1", "pytorch"): [made_up(1.0), {"failed": "exit 1: killed"}, made_up(1.5)],
    ("W1", "pfl"): [{"failed": "not installed: add --install"}] * 3,
    ("W3", "pytorch"): [made_up(2.0)],
}


def test_table_has_medians_ratios_and_reasons() -> None:
    first, second = compare.table(LINES).split("\n\n**W3**\n")
    assert first.splitlines()[4:] == [
        "| fedjax_mri | 3 | 0.5 | 1.00 | 5 | 400 | torch 2.13.0 |",
        "| pytorch | 2 | 1.25 | 2.50 | 3 | 400 | torch 2.13.0; 1 runs failed |",
        "| pfl | - | - | - | - | - | not installed: add --install |",
    ]
    assert second.splitlines()[-1] == "| pytorch | 1 | 2 | - | 3 | 400 | torch 2.13.0 |"
    bars = Counter(line.count("|") for line in first.splitlines()[2:])
    assert list(bars) == [8]


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ((0, 'warming up\n{"median_s": 1.0}\n', ""), {"median_s": 1.0}),
        ((1, '{"median_s": 1.0}\n', "Traceback\nMemoryError\n"), {"failed": "exit 1: MemoryError"}),
        ((0, "done\n", ""), {"failed": "exit 0: done"}),
        ((0, "", "\n"), {"failed": "exit 0: "}),
    ],
)
def test_a_run_is_read_from_its_last_line_or_has_failed(run, line) -> None:
    assert compare.read(*run) == line


def test_the_page_keeps_what_stands_around_the_table(tmp_path) -> None:
    page = tmp_path / "performance.md"
    compare.write(page, "one")
    assert page.read_text() == compare.HEADING + "<!-- peers:start -->\none\n<!-- peers:end -->\n"
    page.write_text("Above.\n" + page.read_text() + "Below.\n")
    compare.write(page, "two")
    text = page.read_text()
    assert "one" not in text.split("<!-- peers:start -->")[1] and "\ntwo\n" in text
    assert text.startswith("Above.\n") and text.endswith("<!-- peers:end -->\nBelow.\n")


def test_machine_and_command_are_told() -> None:
    words = compare.circumstances(["python", "scripts/compare.py"])
    assert f"{compare.CORES} cores" in words and words.endswith("Command: `python scripts/compare.py`")


def test_an_environment_of_other_requirements_is_not_used(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(compare, "HOME", tmp_path)
    for folder in (tmp_path / ".peers" / "pfl", tmp_path / "scripts" / "peers" / "pfl"):
        folder.mkdir(parents=True)
    (tmp_path / "scripts" / "peers" / "pfl" / "requirements.txt").write_text("pfl==2.0\n")
    assert compare.missing("pfl") == "not installed: add --install"
    (tmp_path / ".peers" / "pfl" / "ready").write_text("pfl==1.0\n")
    assert "have changed" in compare.run("pfl", "W1", 2, {"pfl": ""})["failed"]
    (tmp_path / ".peers" / "pfl" / "ready").write_text("pfl==2.0\n")
    assert compare.missing("pfl") == ""


def test_runs_of_earlier_comparisons_count(tmp_path) -> None:
    raw = tmp_path / "runs.jsonl"
    assert compare.earlier(raw) == {}
    runs = [{"workload": "W1", "peer": "pfl", "median_s": 1.0}, {"workload": "W1", "peer": "pfl", "failed": "exit 1"}]
    raw.write_text("".join(json.dumps(run) + "\n" for run in runs))
    assert compare.earlier(raw) == {("W1", "pfl"): runs}
