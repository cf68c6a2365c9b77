"""The names of metrics.jsonl: a line is written as it was read, whatever the names of test sets and figures are."""

import json
import math

import pytest

from fedjax_mri.run.line import (
    LogEntry,
    SegmentFigures,
    Simulated,
    TestFigures,
    TissueFigures,
    by_modality,
    flat,
    named,
    parse,
    progress_words,
    with_nans,
    with_nulls,
)

UPLINK = {"clip/clipped": 4.0, "mine/client_std": 1.0}
WRITTEN = {
    "round": 20,
    "train/accuracy": 0.75,
    "train/nll": 0.5,
    "seconds": 3.5,
    "clients_per_second": 4.0,
    "images_per_second": 100.0,
    "useful_share": 0.9,
    "waited_share": 0.0,
    "simulated/seconds": 60.0,
    "simulated/up_mb": 2.0,
    "simulated/down_mb": 3.0,
    "simulated/lost": 1.0,
    "simulated/cut": 0.0,
    "simulated/skipped": 0.0,
    "uplink/clip/clipped": 4.0,
    "uplink/mine/client_std": 1.0,
    "unseen sites/accuracy": 0.5,
    "unseen sites/worst_decile": 0.25,
    "unseen sites/client_std": 0.125,
    "unseen sites/ensemble/accuracy": 0.625,
    "unseen sites/ensemble/worst_decile": 0.5,
    "unseen sites/ensemble/client_std": 0.0625,
}
TRANSLATED = {
    "round": 0,
    "unseen sites/cycle": 0.5,
    "unseen sites/mr/ssim": 0.75,
    "unseen sites/ct/mae HU": 40.0,
    "unseen sites/ct/error HU in white matter": 12.0,
    "unseen sites/ct/bias HU in white matter": -3.0,
    "unseen sites/mr/error in fluid": 0.25,
    "unseen sites/mr/bias in fluid": 0.125,
    "unseen sites/worst_decile": 0.5,
    "unseen sites/client_std": 0.25,
}


def test_a_line_is_read_into_its_fields() -> None:
    line, simulated = parse(WRITTEN), Simulated(60.0, 2.0, 3.0, 1.0, 0.0, 0.0)
    assert line == LogEntry(
        20,
        {
            "unseen sites": TestFigures({"accuracy": 0.5}, 0.25, 0.125),
            "unseen sites/ensemble": TestFigures({"accuracy": 0.625}, 0.5, 0.0625),
        },
        SegmentFigures(
            {"accuracy": 0.75, "nll": 0.5},
            3.5,
            4.0,
            100.0,
            0.9,
            0.0,
            simulated,
            {"clip/clipped": 4.0, "mine/client_std": 1.0},
        ),
    )
    assert named(line.tests["unseen sites"]) == {"accuracy": 0.5, "worst_decile": 0.25, "client_std": 0.125}


@pytest.mark.parametrize("values", [WRITTEN, TRANSLATED, {"round": 5, "seconds": 1.0, "sites/accuracy": 0.5}])
def test_a_line_is_written_as_it_was_read_in_the_same_order(values) -> None:
    assert list(flat(parse(values)).items()) == list(values.items())


def test_undefined_and_infinite_figures_are_null_in_strict_json_and_nan_when_read() -> None:
    values = {"round": 3, "a/accuracy": math.nan, "a/psnr": math.inf, "a/mae": -math.inf, "a/nll": 0.5}
    text = json.dumps(with_nulls(values), allow_nan=False)
    assert json.loads(text) == {"round": 3, "a/accuracy": None, "a/psnr": None, "a/mae": None, "a/nll": 0.5}
    read = with_nans(json.loads(text))
    assert read["round"] == 3 and read["a/nll"] == 0.5
    assert all(math.isnan(read[name]) for name in ("a/accuracy", "a/psnr", "a/mae"))


def test_before_the_first_round_there_is_no_training() -> None:
    assert parse(TRANSLATED).training is None
    assert parse({"round": 5, "train/nll": 0.5}).training == SegmentFigures({"nll": 0.5})


def test_figures_of_a_translator_are_told_by_modality_and_tissue() -> None:
    found = by_modality(parse(TRANSLATED).tests["unseen sites"])
    assert list(found) == ["mr", "ct"]
    assert found["mr"].values == {"ssim": 0.75} and found["mr"].tissues == {"fluid": TissueFigures(0.25, 0.125, "")}
    assert found["ct"].values == {"mae HU": 40.0}
    assert found["ct"].tissues == {"white matter": TissueFigures(12.0, -3.0, "HU")}
    assert by_modality(TestFigures({"accuracy": 0.5})) == {}


def test_figures_that_do_not_exist_are_not_on_the_progress_line() -> None:
    nobody = SegmentFigures({}, seconds=2.0, clients_per_second=0.0, images_per_second=0.0, useful_share=0.0)
    line = LogEntry(2, {"test": TestFigures({"mr/ssim": math.nan})}, nobody, {"epsilon": 1.5})
    assert progress_words(line, "mr/ssim") == "epsilon 1.5"
    some = line._replace(training=nobody._replace(figures={"mr/ssim": 0.5}, clients_per_second=4.0))
    words = "clients/s 4, images/s 0, useful 0, epsilon 1.5, train/mr/ssim 0.5"
    assert progress_words(some, "mr/ssim") == words
