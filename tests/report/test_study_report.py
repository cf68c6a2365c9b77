"""The report of a study: its statistics against other ways to get them, its page whole and with the numbers in it."""

import itertools
import math
import pathlib

import numpy as np
import pytest
from scipy import stats
from test_report import Page
from tiny import Grey

from fedjax_mri.cli import commands as cli
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.report import statistics
from fedjax_mri.report import study as study_report
from fedjax_mri.run import config as configs
from fedjax_mri.run.config import Experiment
from fedjax_mri.study import folder
from fedjax_mri.study.study import Study, cells

RATES, ALPHAS, SEEDS = (1.0, 1.5, 0.5), (10.0, 20.0), range(4)
GAIN = {1.0: 0.0, 1.5: 0.1, 0.5: -0.2}  # of each rate, in accuracy


def accuracy(rate: float, alpha: float, seed: int, at: int) -> float:
    """Made up: seeds differ much, rates less, and the gain of a rate hardly depends on the seed."""
    return 0.5 + 0.02 * at + 0.01 * (alpha == 20.0) + GAIN[rate] * (1 + 0.1 * seed) + 0.05 * seed


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> pathlib.Path:
    """A finished study of made-up figures: three rates, two noises, four seeds; every round takes 3 MB and 2 s."""
    out = tmp_path_factory.mktemp("study")
    axes = {"algorithm.server_rate": RATES, "data.noise": ALPHAS, "seed": SEEDS}
    given = Study(Experiment(data=Grey(), algorithm=FedAvg(), rounds=6), axes)
    every = cells(given)
    folder.claim(out, given, every)
    for cell in every:
        rate, alpha, seed = cell.where.values()
        history = [{"round": 0, "sites/accuracy": accuracy(rate, alpha, seed, 0)}]
        for at in (1, 2, 3):
            costs = {"simulated/up_mb": 2.0, "simulated/down_mb": 4.0, "simulated/seconds": 4.0}
            history.append(
                {"round": 2 * at, "train/accuracy": 1.0, **costs, "sites/accuracy": accuracy(rate, alpha, seed, at)}
            )
        content = {"id": cell.id, "where": cell.where, "synthetic": True, "history": history}
        disk.write_json(folder.cell_path(out, cell.id), content)
    return out


def test_costs_add_up_from_the_start(out) -> None:
    found = study_report.read(out)
    assert found.axes == ["algorithm.server_rate", "data.noise"] and list(found.figures) == ["sites/accuracy"]
    np.testing.assert_array_equal(found.costs["round"][0], [0, 2, 4, 6])
    np.testing.assert_array_equal(found.costs["mb"][5], [0, 6, 12, 18])
    np.testing.assert_array_equal(found.costs["seconds"][5], [0, 4, 8, 12])


def test_a_ranking_pairs_seeds_and_corrects_for_their_number(out) -> None:
    (part,) = study_report.ranking(study_report.read(out), "sites/accuracy")
    rows = {row[0]: row for row in part.table.rows}
    assert list(rows) == [1.5, 1.0, 0.5]
    gaps = np.array([0.1 * (1 + 0.1 * seed) for seed in SEEDS])
    assert (
        rows[1.5][3] == pytest.approx(gaps.mean())
        and gaps.min() < rows[1.5][4] < gaps.mean() < rows[1.5][5] < gaps.max()
    )
    for rate in (1.5, 0.5):  # all signs alike or all reversed, and twice that by Holm's correction
        assert rows[rate][6] == pytest.approx(2 * 2 / 2**4)
    assert math.isnan(rows[1.0][6]) and rows[1.0][1] == 8 and rows[1.0][3:6] == (0, 0, 0)


def test_a_ranking_goes_by_difference_where_cells_are_not_the_same(out) -> None:
    """A value that was only tried where all do well is not the best for that."""
    found = study_report.read(out)
    easy = np.array([where["data.noise"] == 20.0 for where in found.where])
    kept = [cell for cell, where in enumerate(found.where) if where["algorithm.server_rate"] != 0.5 or easy[cell]]
    figures = {name: (values + 0.5 * easy[:, None])[kept] for name, values in found.figures.items()}
    some = found._replace(where=[found.where[cell] for cell in kept], figures=figures)
    (part,) = study_report.ranking(some, "sites/accuracy")
    assert [row[0] for row in part.table.rows] == [1.5, 1.0, 0.5]


def test_results_are_means_over_seeds(out) -> None:
    table = study_report.results(study_report.read(out), "sites/accuracy")
    row = next(row for row in table.rows if row[:2] == (1.5, 20.0))
    values = [accuracy(1.5, 20.0, seed, 3) for seed in SEEDS]
    assert row[2:4] == (4, pytest.approx(np.mean(values))) and row[6] == pytest.approx(np.std(values, ddof=1))
    assert min(values) <= row[4] < row[3] < row[5] <= max(values)


def test_the_costs_of_a_target_are_those_of_the_first_evaluation_there(out) -> None:
    table = study_report.costs_of_target(study_report.read(out), "sites/accuracy", accuracy(1.0, 10.0, 1, 2) - 1e-6)
    rows = {row[:2]: row[2:] for row in table.rows}
    # seed 0 never, seed 1 at the second evaluation, seeds 2 and 3 before the first round
    assert rows[(1.0, 10.0)] == ("3 of 4", 2.0, 6.0, 4.0)
    assert rows[(0.5, 10.0)][1:] == ("–", "–", "–")


@pytest.mark.parametrize("count", [4, 9])
def test_paired_p_is_that_of_all_signs(count) -> None:
    differences = np.random.default_rng(count).normal(0.5, 1, count)
    means = [np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=count)]
    wanted = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert statistics.sign_flip_p(differences) == pytest.approx(wanted)
    assert statistics.sign_flip_p(np.zeros(count)) == 1


def test_paired_p_is_near_the_t_test_for_many_pairs() -> None:
    differences = np.random.default_rng(0).normal(0.35, 1, 40)
    assert statistics.sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.015)


def test_holm_by_hand() -> None:
    assert statistics.holm_corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm_corrected([0.9, 0.5]) == [1.0, 1.0]
    assert np.isnan(statistics.holm_corrected([math.nan, 0.01])[0])


def test_an_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(3.0, 1.0, (30, 400))
    low, high = statistics.interval(draws)
    assert 0.9 < np.mean((low < 3) & (high > 3)) < 0.97
    assert np.isnan(statistics.interval(draws[:1])[0]).all()


def test_the_page_is_whole_and_says_the_numbers(out, capsys) -> None:
    assert cli.main(["report", str(out), "--target", "0.55"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    page = Page((out / "report.html").read_text("utf-8"))
    assert (
        page.open == []
        and page.tags.count("svg") == 2
        and all(to.startswith(("#", "data:image/png")) for to in page.addresses)
    )
    for words in (
        "Ranking by algorithm.server_rate",
        "What sites/accuracy of 0.550 costs",
        "simulated seconds",
        "fedavg.FedAvg",
    ):
        assert words in page.text, words
    assert page.text.count("synthetic data") == 3 + 2
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "map-1.png"}
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 24 * 4


def test_one_cell_alone_is_reported(tmp_path) -> None:
    given = Study(Experiment(data=Grey()), {"seed": [0]})
    (cell,) = cells(given)
    folder.claim(tmp_path, given, [cell])
    with pytest.raises(UserError, match="no cell of this study is finished"):
        study_report.write(tmp_path)
    history = [{"round": 0, "a/accuracy": 0.1}, {"round": 5, "a/accuracy": 0.2}]
    disk.write_json(
        folder.cell_path(tmp_path, cell.id),
        {"id": cell.id, "where": cell.where, "synthetic": False, "history": history},
    )
    page = Page(study_report.write(tmp_path).read_text("utf-8"))
    assert page.open == [] and "synthetic data" not in page.text and "0.200" in page.text
    assert configs.digest(cell.config) == cell.id
