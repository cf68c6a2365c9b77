"""Studies that are refused, killed, stopped, short of memory or trained twice at once: nothing is lost, a line each."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from test_sweep import BASE, FILE, TIMES, silent

from fedjax_mri.cli import commands as cli
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.engine.plan import DoesNotFit
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, lock, runfolder
from fedjax_mri.study import folder, study, sweep
from fedjax_mri.study.study import Study

HERE = pathlib.Path(__file__).parent
PATHS = os.pathsep.join(map(str, [HERE.parents[1], HERE, HERE.parent / "fed"]))


def test_where_all_settings_are_refused_nothing_is_written_and_the_reason_is_one_line(tmp_path, capsys) -> None:
    (tmp_path / "mine.py").write_text(FILE.format(axes="{'algorithm.server_rate': [-1.0], 'seed': range(4)}"))
    out = tmp_path / "out"
    assert cli.main(["sweep", str(tmp_path / "mine.py"), "--out", str(out)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith("failed: 4 cells, such as ") and "server_rate=-1.0" in said[0]
    assert not out.exists()


def test_a_folder_without_a_finished_cell_can_be_another_study_s(tmp_path) -> None:
    broken = Study(configs.with_field(BASE, "data.broken", True), {"seed": [0, 1]})
    lines = list[str]()
    failures = sweep.run(broken, tmp_path, say=lines.append)
    assert set(failures.values()) == {"data.broken=True: take False"}
    assert sum(line.startswith("failed: 2 cells, such as ") for line in lines) == 1
    files = list((tmp_path / "failures").iterdir())
    assert {file.stem for file in files} == set(failures)
    assert "data.broken=True" in files[0].read_text() and "Traceback" in files[0].read_text()
    mended = Study(configs.with_field(BASE, "rounds", 1), {"seed": [0, 1]})
    with lock.hold(tmp_path, name="shard-1-of-2"), pytest.raises(UserError, match="writes this folder"):
        sweep.run(mended, tmp_path, say=silent)  # somebody has begun with the first one
    assert sweep.run(mended, tmp_path, say=silent) == {}
    assert not list(tmp_path.glob("failures/*")) and len(folder.finished_cells(tmp_path)) == 2
    with pytest.raises(UserError, match="holds another study"):
        sweep.run(broken, tmp_path, say=silent)


def test_a_shard_that_another_process_trains_is_refused(tmp_path) -> None:
    given = Study(BASE, {"seed": [0, 1]})
    with lock.hold(tmp_path, name="shard-0-of-2"), pytest.raises(UserError, match="writes this folder"):
        sweep.run(given, tmp_path, (0, 2), say=silent)
    assert not (tmp_path / "study.json").exists()


@pytest.fixture
def trained(monkeypatch, tmp_path) -> list[int]:
    """Makes `group.train` short of memory for more than two members, and saves nothing; the sizes of its groups."""
    sizes = list[int]()

    def train(several, *_):
        sizes.append(len(several))
        if len(several) > 4:
            raise DoesNotFit("plan.lanes=1: the program needs more")
        if len(several) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        return [sweep.group.Outcome([], "done") for _ in several], BASE.plan

    monkeypatch.setattr(sweep.group, "train", train)
    return sizes


def test_cells_that_have_no_room_in_one_program_train_in_halves(tmp_path, trained, monkeypatch) -> None:
    alone, lines = list[str](), list[str]()
    monkeypatch.setattr(sweep, "train_one", lambda cell, *_: alone.append(cell.id))
    given = Study(BASE, {"seed": range(5)})
    failures = sweep.run(given, tmp_path, say=lines.append)
    assert trained == [5, 2, 3, 2] and len(failures) == 4 and len(alone) == 1
    said = [line for line in lines if "have no room in one program" in line]
    assert len(said) == 2 and "plan.lanes=1" in said[0] and "2 and 3 instead" in said[0]
    assert "RESOURCE_EXHAUSTED" in said[1] and "1 and 2 instead" in said[1]


def test_an_error_in_one_cell_leaves_its_traceback_and_the_others_train(tmp_path, monkeypatch) -> None:
    given = Study(configs.with_field(BASE, "plan.loop", "round"), {"seed": [0, 1]})

    def act(config, run, **_):
        if config.seed == 0:
            raise RuntimeError("a bug of mine")
        run.mkdir(parents=True)
        disk.write_json(run / "run.json", {"synthetic": True, **dict.fromkeys(runfolder.NEEDED["run.json"])})

    monkeypatch.setattr(experiment, "run", act)
    monkeypatch.setattr(sweep.results, "history", lambda run: [])
    failures = sweep.run(given, tmp_path, say=silent)
    cells = study.cells(given)
    assert list(failures) == [cells[0].id] and failures[cells[0].id].endswith("RuntimeError: a bug of mine")
    text = folder.failure_path(tmp_path, cells[0].id).read_text()
    assert text.startswith(f"{failures[cells[0].id]}\n\nseed: 0\n") and "Traceback" in text and "in act" in text
    assert folder.cell_path(tmp_path, cells[1].id).exists()


@pytest.mark.parametrize("loop", ["segment", pytest.param("round", marks=pytest.mark.thorough)])
def test_a_signal_ends_a_sweep_after_the_segment(tmp_path, loop, capsys, monkeypatch) -> None:
    """In a program of several cells, and in a cell of its own program, which goes on from its checkpoint."""
    axes = {"seed": [0, 1], "plan.loop": [loop]}
    (tmp_path / "mine.py").write_text(FILE.format(axes=axes))
    command = ["sweep", str(tmp_path / "mine.py"), "--out", str(tmp_path / "out"), "--rounds", "4"]

    def say_and_stop(line: str) -> None:
        print(line)
        if line.startswith("round 2/4"):  # of cells in one program
            os.kill(os.getpid(), signal.SIGTERM)

    def watch(progress) -> None:  # a cell in its own program
        if progress.round == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run, run_one = sweep.run, experiment.run
    monkeypatch.setattr(sweep, "run", lambda given, out, part, _, waiting: run(given, out, part, say_and_stop, waiting))
    monkeypatch.setattr(experiment, "run", lambda config, out, say: run_one(config, out, say=say, watch=watch))
    assert cli.main(command) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    said = capsys.readouterr().out
    assert "SIGTERM: stopped, 0 of 2 cells are finished; the same command trains the others" in said
    assert "round 4/4" not in said and not list((tmp_path / "out").glob("cells/*.json"))
    assert not list((tmp_path / "out").glob("shard-*"))
    monkeypatch.undo()
    assert cli.main(command) == 0 and len(folder.finished_cells(tmp_path / "out")) == 2


def start_process(words: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedjax_mri", *words]
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | cache | {"PYTHONPATH": PATHS}, **silence)


def table(out: pathlib.Path) -> list[dict[str, str]]:
    """The rows of table.csv without times."""
    rows = csv.DictReader((out / "table.csv").open())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def same_rows(a: list[dict[str, str]], b: list[dict[str, str]]) -> None:
    """Figures agree as those of cells in one program and in their own do in test_sweep.py."""
    for mine, other in zip(a, b, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            exact = name in ("cell", "seed", "round", "plan.loop") or not mine[name]
            other_value = other[name] if exact else pytest.approx(float(other[name]), rel=1e-6, abs=2e-6)
            assert (mine[name] if exact else float(mine[name])) == other_value, name


@pytest.mark.slow
def test_a_sweep_that_is_killed_ends_with_the_table_of_one_that_is_not(tmp_path) -> None:
    """Two cells train in one program, the other two each in its own; killed in the second kind."""
    axes = "{'plan.loop': ['segment', 'round'], 'seed': [0, 1]}"
    (tmp_path / "mine.py").write_text(FILE.format(axes=axes))
    command = ["sweep", str(tmp_path / "mine.py"), "--out"]
    process = start_process([*command, str(tmp_path / "killed")])
    while not any(tmp_path.glob("killed/runs/*/checkpoints/2")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = len(list((tmp_path / "killed" / "cells").glob("*.json")))
    assert 0 < finished < 4
    assert [cli.main([*command, str(tmp_path / out)]) for out in ("killed", "whole")] == [0, 0]
    assert len(table(tmp_path / "whole")) == 12
    same_rows(table(tmp_path / "killed"), table(tmp_path / "whole"))


@pytest.fixture
def sbatch(tmp_path, monkeypatch) -> pathlib.Path:
    """A fake sbatch on the path that writes its arguments to a file and ends with the code in $SBATCH_CODE."""
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    program = "import json, os, sys; json.dump(sys.argv[1:], open(os.environ['SAID'], 'w'))"
    fake.write_text(f'#!/bin/sh\n"{sys.executable}" -c "{program}" "$@"\nexit ${{SBATCH_CODE:-0}}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SAID", str(tmp_path / "said.json"))
    return tmp_path / "said.json"


def test_slurm_gets_an_array_job_with_whole_paths_from_any_folder(tmp_path, sbatch, monkeypatch, capsys) -> None:
    (tmp_path / "mine.py").write_text(FILE.format(axes="{'seed': range(3)}"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "mine.py", "--out", "x y", "--slurm", "8", "--wait", "5", "--rounds", "2"]) == 0
    array, script, *sweeping = json.loads(sbatch.read_text())
    assert array == "--array=0-2" and pathlib.Path(script).is_absolute()
    assert sweeping[:4] == [sys.executable, "-m", "fedjax_mri", "sweep"]
    assert sweeping[4:7] == [str(tmp_path / "mine.py"), "--out", str(tmp_path / "x y")]
    assert sweeping[7:] == ["--wait=5.0", "--rounds", "2"]
    assert capsys.readouterr().out.startswith("sbatch --array=0-2 ") and not (tmp_path / "x y").exists()
    monkeypatch.setenv("SBATCH_CODE", "7")
    assert cli.main(["sweep", "mine.py", "--slurm", "2"]) == 7


def test_the_array_job_trains_the_shard_of_its_number(tmp_path, sbatch, monkeypatch) -> None:
    """The script that is submitted, run with an `srun` that runs what it is given: here, a sweep that prints."""
    (tmp_path / "mine.py").write_text(FILE.format(axes="{'seed': range(3)}"))
    assert cli.main(["sweep", str(tmp_path / "mine.py"), "--slurm", "2"]) == 0
    _, script, *sweeping = json.loads(sbatch.read_text())
    srun = tmp_path / "bin" / "srun"
    srun.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    srun.chmod(0o755)
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    words = subprocess.check_output(["bash", script, *sweeping], env=os.environ | array, text=True).splitlines()
    assert words == [*sweeping, "--shard", "1/2"]


def test_without_slurm_one_line_says_so(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "mine.py").write_text(FILE.format(axes="{'seed': range(3)}"))
    monkeypatch.setenv("PATH", "")
    assert cli.main(["sweep", str(tmp_path / "mine.py"), "--slurm", "8"]) == 1
    said = capsys.readouterr()
    assert (
        said.err.startswith("error: --slurm 3: there is no sbatch here; ")
        and len(said.err.splitlines()) == 1
        and not said.out
    )
