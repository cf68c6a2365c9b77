"""The runs that a server shows, and what each can do."""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import restore, results, runfolder
from fedjax_mri.run.line import Line

CONFIGS = threading.Lock()  # held while a config is read: that imports modules, which is for one thread at a time


class Ability(NamedTuple):
    """What a run's model can do; nothing of a run that has saved no model."""

    makes: tuple[str, ...] = ()  # "ct", "mr"
    classes: tuple[str, ...] = ()  # of a classifier of single images


def find(places: Sequence[Path]) -> dict[str, Path]:
    """The run folders among places and up to two folders below them, by their names; these are all that users type."""
    found: dict[str, Path] = {}
    for place in places:
        below = [config.parent for depth in ("", "*/", "*/*/") for config in sorted(place.glob(f"{depth}config.json"))]
        for folder in below:
            name = base = str(folder.relative_to(place.parent)) if folder != place else place.name
            number = 2
            while name in found and found[name] != folder:
                name, number = f"{base} ({number})", number + 1
            if runfolder.is_run(folder):
                found[name] = folder
    return found


def ability(run: Path) -> Ability:
    """What the model of a run can do."""
    saved = [*run.glob("checkpoints/[0-9]*"), *run.glob("best/checkpoints/[0-9]*")]
    facts = run / "run.json"
    with CONFIGS:
        return _ability(run, facts.stat().st_mtime_ns) if saved and facts.exists() else Ability()


@functools.lru_cache(256)
def _ability(run: Path, changed: int) -> Ability:
    try:
        model = restore.read_model(run)
    except Exception:  # a config may hold code of any kind, and one bad run must not hide the others
        return Ability()
    task = model.task
    return Ability(
        task.translation.makes if task.translation else (), model.described.classes if task.classifier else ()
    )


class Row(NamedTuple):
    """A run in the table of runs."""

    name: str
    round: int
    rounds: int
    figures: dict[str, dict[str, float]]  # those that count, of each test set at the last evaluation
    epsilon: float | None  # spent so far, of a private run
    synthetic: bool
    report: bool  # whether there is one
    ability: Ability
    line: str = ""  # what is wrong with it


def row(name: str, run: Path) -> Row:
    """A run as the table shows it, finished or not."""
    try:
        facts = runfolder.read_json(run / "run.json")
        history, config = results.history(run), runfolder.read_json(run / "config.json")
        tests = history[-1].tests if history else {}
        figures = {
            test: {key: found.pooled[key] for key in facts.get("headline", ()) if key in found.pooled}
            for test, found in tests.items()
        }
        privacy = history[-1].privacy if history else {}
        report = next((True for folder in (run, run.parent) if (folder / "report.html").exists()), False)
        last = history[-1].round if history else 0
        epsilon = privacy.get("epsilon")
        return Row(name, last, config["rounds"], figures, epsilon, facts.get("synthetic", False), report, ability(run))
    except UserError as error:
        return Row(name, 0, 0, {}, None, False, False, Ability(), str(error).replace(f"{run}/", ""))


def histories(runs: dict[str, Path]) -> dict[str, tuple[list[Line], list[str]]]:
    """The evaluations of runs and the figures that count, for their curves."""
    return {
        name: (results.history(run), list(runfolder.read_json(run / "run.json").get("headline", ())))
        for name, run in runs.items()
    }
