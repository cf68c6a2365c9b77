"""Damaged files of a run, as the fault matrix tries them, on a tiny run in this process.

`scripts/fault_matrix.py` tries the other faults and commands, each in processes of its own.
"""

import contextlib
import io

import fault_home
import fault_kinds
import pytest
from fault_commands import COMMANDS, Home, Seen
from fault_kinds import Trial
from fault_matrix import CELLS, LOCK, SAVED
from test_cli import CONFIG, fill

from fedjax_mri.cli import commands as cli

TRIED = {command.name: command for command in COMMANDS if command.name in ("resume", "evaluate")}


def call(words: list[str]) -> Seen:
    """Runs a command in this process."""
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = cli.main(words)
    return Seen(code, said.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    """A home whose run has eight rounds."""
    folder = tmp_path_factory.mktemp("matrix")
    fill(folder / "images", {"Training": 14, "Testing": 6})
    config = folder / "tiny.py"
    config.write_text(CONFIG.format(root=str(folder / "images")).replace("rounds=6", "rounds=8"))
    assert call(["train", str(config), "--out", str(folder / "run"), "--keep", "1000"]).code == 0
    fault_home.cut_to_half(folder / "run", folder / "half")
    return Home(folder, config, folder / "study.py", folder / "images", call)


@pytest.fixture(scope="module")
def wanted(home) -> dict:
    """What each command gives when nothing disturbs it."""
    return {name: fault_kinds.left_alone(command, home) for name, command in TRIED.items()}


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("fault", [*SAVED])
def test_a_damaged_file_is_said_and_costs_nothing(name: str, fault: str, home: Home, wanted: dict) -> None:
    folder = home.folder / f"{name} {fault}".replace(" ", "-")
    trial = Trial(TRIED[name], home, folder, wanted[name])
    fault_kinds.prepare(trial)
    CELLS[name][fault].act(trial)


def test_every_command_is_tried() -> None:
    assert {command.name for command in COMMANDS} == CELLS.keys()
    assert all(LOCK.keys() & CELLS[name].keys() for name in CELLS)


def test_a_command_that_does_not_behave_is_found_out(home, wanted) -> None:
    """The trial of a fault can fail: where results differ by one bit, and where an error is not one line."""
    found = {**wanted["evaluate"], "said": ["another line"]}
    trial = Trial(TRIED["evaluate"], home, home.folder / "other", found)
    fault_kinds.prepare(trial)
    with pytest.raises(AssertionError, match="said differs"):
        fault_kinds.lock_left("run")(trial)
    with pytest.raises(AssertionError):
        fault_kinds.assert_one_line(Seen(1, "", "Traceback (most recent call last)\nerror: x"), 1, "x")
