"""Tries faults on commands, and prints a table of what was seen: docs/reliability.md has one.

python scripts/fault_matrix.py                              all faults on all commands; about 20 minutes on two cores
python scripts/fault_matrix.py --faults "kill -9" --commands train resume
python scripts/fault_matrix.py --kills 50                   kills a small run 50 times at random moments instead

A disk is full on a small disk in memory, which root may mount; for others no file may grow beyond 2 kB instead.
"""

import argparse
import datetime
import os
import pathlib
import platform
import shutil
import signal
import sys
import tempfile
from typing import NamedTuple

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "faults")]

import fault_home  # noqa: E402
import fault_kinds  # noqa: E402
import random_kills  # noqa: E402
from fault_commands import COMMANDS, Command, Home, Results, call_process  # noqa: E402
from fault_kinds import Fault, Trial, damaged  # noqa: E402

SAME, LINE, UNREAD = "the same result after it", "one line", "not read"
ROUNDED = "the same up to rounding"


class Cell(NamedTuple):
    """A fault on a command, and in a few words what must be seen."""

    act: Fault
    wanted: str = SAME


INTERRUPTED = {
    "kill -9": Cell(fault_kinds.interrupted(signal.SIGKILL)),
    "SIGTERM": Cell(fault_kinds.interrupted(signal.SIGTERM)),
    "clock jumps by days": Cell(fault_kinds.clock_jumps),
    "cache damaged": Cell(fault_kinds.cache_damaged),
}
FULL = {"disk full": Cell(fault_kinds.disk_full, f"{LINE}; {SAME}")}
PEER = {"lost peer": Cell(fault_kinds.loses_a_peer, f"{LINE}; {SAME}")}
CONFIG = {"config.json damaged": Cell(damaged("run/config.json", "cannot be read"), LINE)}
FACTS = {"run.json damaged": Cell(damaged("run/run.json", "cannot be read"), LINE)}
NEWEST = "run/checkpoints/[0-9]*"
CHECKPOINT = {"newest checkpoint damaged": Cell(damaged(NEWEST, "damaged.*delete that folder"), LINE)}
UNREAD_METRICS = {"metrics.jsonl damaged": Cell(damaged("run/metrics.jsonl"), UNREAD)}
LOCK = {"nonsense in lock": Cell(fault_kinds.lock_left("run"))}
SAVED = {**CONFIG, **FACTS, **CHECKPOINT, **UNREAD_METRICS, **LOCK}
CELLS: dict[str, dict[str, Cell]] = {
    "train": {**INTERRUPTED, **FULL, **PEER, **LOCK},
    "resume": {
        **INTERRUPTED,
        **FULL,
        **PEER,
        **SAVED,
        "newest checkpoint damaged": Cell(fault_kinds.checkpoint_deleted(NEWEST), f"{LINE}; {SAME}"),
        "metrics.jsonl damaged": Cell(fault_kinds.metrics_damaged, f"{LINE}; goes on without what is lost"),
    },
    "sweep": {
        fault: cell._replace(wanted=cell.wanted.replace(SAME, ROUNDED))
        for fault, cell in {**INTERRUPTED, **FULL, "nonsense in lock": Cell(fault_kinds.lock_left("study"))}.items()
    },
    "evaluate": {**INTERRUPTED, **PEER, **SAVED, "disk full": Cell(fault_kinds.disk_full, "nothing is written")},
    "convert": {**INTERRUPTED, **FULL, **SAVED},
    "explain": {**INTERRUPTED, **FULL, **SAVED},
}
FAULTS = tuple(dict.fromkeys(fault for cells in CELLS.values() for fault in cells))


def main() -> int:
    """Prints the table, or how many kills were survived; returns 1 where something was not as it must be."""
    words = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = words.home or pathlib.Path(folder)
        os.environ.setdefault("XDG_CACHE_HOME", str(home / "cache"))
        if words.kills:
            return count_kills(home, words.kills, words.seed)
        built = fault_home.build(home / "home", HERE.parent / "configs" / "quickstart.py", call_process)
        for name in ("trials", "undisturbed"):
            shutil.rmtree(built.folder / name, ignore_errors=True)
        seen = {
            (fault, command.name): trial_of(command, fault, built)
            for command in COMMANDS
            if command.name in words.commands
            for fault in words.faults
            if fault in CELLS[command.name]
        }
    print(table(seen, words.commands, words.faults))
    return int(any(what.startswith("**") for what in seen.values()))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT", help=", ".join(FAULTS))
    made.add_argument("--commands", nargs="+", choices=list(CELLS), default=list(CELLS))
    made.add_argument("--kills", type=int, default=0, help="kill a small run that often, at random moments")
    made.add_argument("--seed", type=int, default=0, help="of these moments")
    made.add_argument("--home", type=pathlib.Path, help="a folder that is kept (default: one that is not)")
    return made


def count_kills(home: pathlib.Path, kills: int, seed: int) -> int:
    """Prints after how many kills a run came to the same end; returns 1 where one did not."""
    config = home / "small.py"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        fault_home.SMALL.format(quickstart=str(HERE.parent / "configs" / "quickstart.py")), encoding="utf-8"
    )

    def train(folder: pathlib.Path, flags: list[str]) -> list[str]:
        return ["train", str(config), "--out", str(folder), "--rounds", "200", "--evaluate-every", "5", *flags]

    outcome = random_kills.kill_at_random(train, home, kills, seed, lambda line: print(line, flush=True))
    print(f"{outcome.identical} of {outcome.kills} kills, in {outcome.runs} runs: the same bits. {versions()}")
    return int(outcome.identical < outcome.kills)


def trial_of(command: Command, fault: str, home: Home, undisturbed: dict[tuple[str, int], Results] = {}) -> str:  # noqa: B006
    """Tries a fault on a command, and returns what the table says of it. Results without a fault are kept."""
    cell = CELLS[command.name][fault]
    home = home._replace(processes=2 if cell in PEER.values() else 1)
    key = (command.name, home.processes)
    folder = home.folder / "trials" / f"{command.name} {fault}".replace(" ", "-")
    try:
        if key not in undisturbed:
            undisturbed[key] = fault_kinds.left_alone(command, home)
        trial = Trial(command, home, folder, undisturbed[key])
        fault_kinds.prepare(trial)
        cell.act(trial)
        what = cell.wanted
    except AssertionError as error:
        what = f"**failed**: {' '.join(str(error).split())[:300]}"
    print(f"{fault} x {command.name}: {what}", flush=True)
    return what


def table(seen: dict[tuple[str, str], str], commands: list[str], faults: list[str]) -> str:
    """Returns a table in Markdown, a row for each fault."""
    head = [["fault", *commands], ["---"] * (1 + len(commands))]
    rows = [[fault, *(seen.get((fault, command), "") for command in commands)] for fault in faults]
    lines = [f"| {' | '.join(cells)} |" for cells in [*head, *rows]]
    return "\n".join([*lines, "", versions()])


def versions() -> str:
    """Returns date and versions."""
    import jax

    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"{datetime.date.today()}, JAX {jax.__version__}, {system}."


if __name__ == "__main__":
    sys.exit(main())
