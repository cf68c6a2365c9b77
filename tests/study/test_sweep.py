"""Studies: which cells there are, what becomes of each, and every mistake in one line."""

import csv
import json
import pathlib

import numpy as np
import pytest
from tiny import Grey, Picky

from fedjax_mri.cli import commands as cli
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.procedural import origin
from fedjax_mri.data.phantom.source import reader
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, runfolder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study import folder, study, sweep
from fedjax_mri.study.study import Study, choice, log_range, log_uniform, random, uniform
from fedjax_mri.tasks.classify import Classify

STUDIES = sorted((pathlib.Path(__file__).parents[2] / "studies").glob("*.py"))
BASE = Experiment(
    data=Grey(),
    task=Classify(network=LinearSettings()),
    local=LocalTraining(batch=4, learning_rate=0.01),
    sampling=Uniform(3),
    rounds=3,
    evaluate_every=2,
    plan=Plan(devices=2, lanes=1, conv="gemm", tune_s=0, members="map"),
)
FILE = """
from dataclasses import replace
from fedjax_mri.study.study import Study
from test_sweep import BASE
study = Study(BASE, {axes})
"""
TIMES = {"seconds", "clients_per_second", "images_per_second", "waited_share", "useful_share"}


def silent(line: str) -> None:
    """Says nothing."""


def where(given: Study) -> list[dict]:
    return [cell.where for cell in study.cells(given)]


def test_cells_are_all_combinations() -> None:
    axes = {"algorithm": [FedAvg(), FedAvg(1.5)], "local.learning_rate": [1, 0.1], "seed": range(3)}
    cells = study.cells(Study(BASE, axes))
    assert len(cells) == 12 and len({cell.id for cell in cells}) == 12
    last = cells[-1]
    assert last.where == {"algorithm": "FedAvg(server_rate=1.5)", "local.learning_rate": 0.1, "seed": 2}
    assert last.config.algorithm == FedAvg(1.5) and last.config.seed == 2
    assert cells[0].config.local.learning_rate == 1.0 and cells[0].id == configs.digest(cells[0].config)


def test_linked_fields_change_together_and_values_may_have_names() -> None:
    linked = {("data.clients", "sampling.cohort"): [(4, 2), (8, 4)]}
    assert where(Study(BASE, linked)) == [
        {"data.clients": 4, "sampling.cohort": 2},
        {"data.clients": 8, "sampling.cohort": 4},
    ]
    named = {("data.clients", "sampling.cohort"): {"few": (4, 2), "many": (8, 4)}, "seed": {"first": 0}}
    assert where(Study(BASE, named))[1] == {"data.clients + sampling.cohort": "many", "seed": "first"}
    assert study.cells(Study(BASE, named))[1].config.data.clients == 8


def test_settings_are_called_by_what_varies_even_where_it_is_the_default() -> None:
    axes = {"algorithm": [FedAvg(), FedProx(mu=0.01), FedProx(mu=1.0)], "seed": [0]}
    assert FedProx() == FedProx(mu=0.01)
    names = [one["algorithm"] for one in where(Study(BASE, axes))]
    assert names == ["FedAvg", "FedProx(mu=0.01)", "FedProx(mu=1.0)"]
    alone = where(Study(BASE, {"algorithm": [FedAvg(), FedProx()]}))
    assert [one["algorithm"] for one in alone] == ["FedAvg", "FedProx"]


def test_drawn_axes_are_drawn_once_for_all() -> None:
    axes = {
        "local.learning_rate": log_uniform(1e-3, 1e-1),
        "algorithm.server_rate": uniform(0.5, 2),
        "local.batch": [2, 4],
    }
    cells = study.cells(Study(BASE, {**random(40, 7, axes), "seed": range(2)}))
    rates = np.array([cell.where["local.learning_rate"] for cell in cells[::2]])
    assert len(cells) == 80 and rates.min() >= 1e-3 and rates.max() <= 1e-1
    assert 0.3 < np.mean(rates < 1e-2) < 0.7  # the middle of the logarithms
    assert {cell.config.local.batch for cell in cells} == {2, 4}
    assert where(Study(BASE, random(40, 7, axes))) == where(Study(BASE, random(40, 7, axes)))
    assert len(random(50, 0, {"seed": choice(1, 2, 3)})[("seed",)]) == 3


def test_log_range_has_equal_ratios() -> None:
    assert log_range(1e-3, 1e-1, 5) == pytest.approx([1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1], rel=1e-3)


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"local.learning_rte": [1.0]}, "unknown field 'local.learning_rte'; did you mean 'local.learning_rate'?"),
        ({"algorithm.mu": [1.0]}, "unknown field 'algorithm.mu'"),
        ({"seed": []}, "'seed' has no values"),
        ({"seed": [1, 2, 1]}, "seed 1 and seed 1 are one experiment"),
        ({("seed", "rounds"): [(1, 2), 3]}, "'seed + rounds' changes 2 fields at once: 3"),
        ({"rounds": [0]}, "rounds=0"),
    ],
)
def test_bad_axes_are_named(axes, says) -> None:
    with pytest.raises(UserError) as error:
        study.cells(Study(BASE, axes))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [("x = 1", "must define `study = Study"), ("study = (", "SyntaxError"), ("import nothing_here", "nothing_here")],
)
def test_bad_study_files_are_named(tmp_path, content, says, capsys) -> None:
    (tmp_path / "mine.py").write_text(content)
    assert cli.main(["sweep", str(tmp_path / "mine.py"), "--out", str(tmp_path / "out")]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("words", ["3/3", "-1/3", "1", "a/b", "1/0"])
def test_shards_that_are_not_there_are_refused(words) -> None:
    with pytest.raises(UserError, match="--shard"):
        sweep.shard(words)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Study, pathlib.Path]:
    """A finished study of four cells in one program."""
    given = Study(BASE, {("local.learning_rate", "algorithm.server_rate"): [(0.01, 1.0), (0.02, 1.5)], "seed": [3, 4]})
    out = tmp_path_factory.mktemp("study")
    lines = list[str]()
    assert sweep.run(given, out, say=lines.append) == {}
    assert any("4 cells in one program, with local.learning_rate, algorithm.server_rate" in line for line in lines)
    return given, out


def test_cells_of_one_program_are_the_runs_they_stand_for(done, tmp_path) -> None:
    given, out = done
    for cell in study.cells(given)[::3]:
        config = configs.with_field(cell.config, "plan.devices", 1)
        assert experiment.run(config, tmp_path / cell.id, say=silent) is None
        ours = runfolder.read_json(folder.cell_path(out, cell.id))["history"]
        theirs = runfolder.read_history(tmp_path / cell.id)
        assert [line["round"] for line in ours] == [0, 2, 3]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.keys() == other.keys()
            for name in mine.keys() - TIMES:
                assert mine[name] == pytest.approx(other[name], rel=1e-6, abs=2e-6), name  # rounded to 1e-6


def test_each_cell_of_one_program_balances_the_classes_of_its_own_data(tmp_path) -> None:
    given = Study(
        configs.with_field(configs.with_field(BASE, "rounds", 1), "task.class_weights", "balanced"), {"seed": [3, 4]}
    )
    lines, cell = list[str](), study.cells(given)[1]
    labels = [BASE.data.build(seed).labels.sum(0).tolist() for seed in (3, 4)]
    assert labels[0] != labels[1]
    assert sweep.run(given, tmp_path / "study", say=lines.append) == {}
    assert "2 cells in one program" in lines
    experiment.run(configs.with_field(cell.config, "plan.devices", 1), tmp_path / "run", say=silent)
    ours = runfolder.read_json(folder.cell_path(tmp_path / "study", cell.id))["history"][-1]
    theirs = runfolder.read_history(tmp_path / "run")[-1]
    for name in ours.keys() - TIMES:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=2e-6), name  # rounded to 1e-6


def test_the_table_has_a_row_for_each_cell_and_evaluation(done) -> None:
    given, out = done
    table = list(csv.DictReader((out / "table.csv").open()))
    assert len(table) == 4 * 3
    ids = [cell.id for cell in study.cells(given)]
    assert [row["cell"] for row in table] == [id for id in ids for _ in range(3)]
    assert list(table[0])[:5] == ["cell", "local.learning_rate", "algorithm.server_rate", "seed", "round"]
    history = runfolder.read_json(folder.cell_path(out, ids[2]))["history"]
    assert float(table[8]["new sites/accuracy"]) == history[2]["new sites/accuracy"]
    assert table[6]["train/nll"] == ""  # before the first round nobody has trained


def test_finished_cells_are_not_trained_again(done, tmp_path) -> None:
    given, out = done
    before = {file: file.stat().st_mtime_ns for file in (out / "cells").iterdir()}
    lines = list[str]()
    assert sweep.run(given, out, say=lines.append) == {}
    assert before == {file: file.stat().st_mtime_ns for file in (out / "cells").iterdir()}
    assert lines == ["4 cells, 4 of them finished; 0 kinds of program for the others"]


def test_a_folder_of_another_study_is_refused(done, tmp_path) -> None:
    given, out = done
    with pytest.raises(UserError, match=r"holds another study \(rounds: 3 -> 4\)"):
        sweep.run(Study(configs.with_field(given.base, "rounds", 4), given.axes), out, say=silent)
    with pytest.raises(UserError, match=r"another study \(axes: "):
        sweep.run(Study(given.base, {"seed": [3]}), out, say=silent)
    disk.write_json(tmp_path / "config.json", {})
    with pytest.raises(UserError, match="holds a run, not a study"):
        sweep.run(given, tmp_path, say=silent)


def test_failed_cells_do_not_stop_the_others(tmp_path, capsys) -> None:
    """Two members leave the finite numbers; then, two cells have no data and two a cohort that is too large."""
    rates = "{'local.learning_rate': [0.01, 1e38], 'seed': [0, 1], 'data.broken': [False]}"
    (tmp_path / "mine.py").write_text(FILE.format(axes=rates))
    out = tmp_path / "out"
    assert cli.main(["sweep", str(tmp_path / "mine.py"), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert said.count("failed: ") == 1 and said.count("the training loss is no longer finite") == 1
    assert "failed: 2 cells, such as " in said and len(list((out / "failures").iterdir())) == 2
    assert sorted(cell.where["local.learning_rate"] for cell in folder.finished_cells(out)) == [0.01, 0.01]

    negative = {"algorithm.server_rate": [-1.0], "seed": range(2)}
    assert "server_rate=-1.0" in " ".join(sweep.run(Study(BASE, negative), tmp_path / "bad", say=silent).values())

    axes = {"data.broken": [True, False], "sampling.cohort": [8, 9]}
    failures = sweep.run(Study(BASE, axes), tmp_path / "more", say=silent)
    assert sorted(failures.values())[:2] == 2 * ["data.broken=True: take False"] and len(failures) == 4
    assert "sampling.cohort=9: there are 5 clients" in " ".join(failures.values())


def test_numbers_that_decide_what_is_compiled_get_a_program_each(tmp_path) -> None:
    given = Study(configs.with_field(BASE, "rounds", 1), {"algorithm": [Picky(0.5), Picky(1.5)], "seed": [0, 1]})
    lines = list[str]()
    assert sweep.run(given, tmp_path, say=lines.append) == {}
    assert sum("differ in what is compiled" in line for line in lines) == 1
    assert sum(line == "2 cells in one program" for line in lines) == 2 and len(folder.finished_cells(tmp_path)) == 4


def test_a_number_that_switches_a_part_off_is_in_another_program(tmp_path) -> None:
    """Clipping at 0 means none: it is not a bound of 0."""
    given = Study(BASE, {"uplink.clip": [0.0, 0.1, 1e9], "seed": [0]})
    assert sweep.run(given, tmp_path, say=silent) == {}
    final = {
        one.where["uplink.clip"]: one.history[-1].training.figures["nll"] for one in folder.finished_cells(tmp_path)
    }
    assert final[0.0] == pytest.approx(final[1e9], rel=1e-5) and abs(final[0.1] - final[0.0]) > 1e-3


def test_shards_share_the_cells(tmp_path, monkeypatch) -> None:
    given, shares = Study(BASE, {"seed": range(7)}), list[str]()
    monkeypatch.setattr(
        sweep, "train_cells", lambda cells, *_: shares.append([cell.where["seed"] for cell in cells]) or {}
    )
    for number in range(3):
        assert sweep.run(given, tmp_path, (number, 3), say=silent) == {}
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_phantoms_of_any_seed_and_label_skew_share_a_program() -> None:
    base = Phantom(clients=4)
    skewed = configs.with_field(base, "sites.class_alpha", 0.1)
    noisy = configs.with_field(base, "sites.mr_noise", (0.0, 0.1))
    assert reader(base) is reader(skewed) and reader(base) is not reader(noisy)
    assert (origin(base, 0).key != origin(base, 1).key).any()
    labels = [one.build(0).labels for one in (base, skewed)]
    assert (labels[0] != labels[1]).any() and labels[0].sum() == labels[1].sum()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_can_be_read(path) -> None:
    cells = study.cells(study.load(path))
    assert len({cell.id for cell in cells}) == len(cells) > 3
    for cell in cells:
        assert configs.from_dict(json.loads(json.dumps(configs.to_dict(cell.config)))) == cell.config
