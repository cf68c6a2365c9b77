"""The runs that a server shows, and what each can do."""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import restore, results, runfolder

CONFIGS = threading.Lock()  # held while a config is read: that imports modules, which is for one thread at a time
REPORT = "report.html"


class Ability(NamedTuple):
    """Tells what a run's model can do; nothing of a run that has saved no model."""

    makes: tuple[str, ...] = ()  # "ct", "mr"
    classes: tuple[str, ...] = ()  # of a classifier of single images


class Row(NamedTuple):
    """Holds what the table of runs shows of a run."""

    name: str
    round: int = 0
    rounds: int = 0
    figures: dict[str, dict[str, float]] = {}  # noqa: RUF012  those that count, of each test set at the last evaluation
    epsilon: float | None = None  # spent so far, of a private run
    synthetic: bool = False
    report: bool = False  # whether there is one
    ability: Ability = Ability()
    line: str = ""  # what is wrong with it


def find(places: Sequence[Path]) -> dict[str, Path]:
    """Returns the run folders among places and up to two folders below them, by their names.

    These names are all that users type.
    """
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
    """Returns what the model of a run can do."""
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
    makes = model.task.translation.makes if model.task.translation else ()
    return Ability(makes, model.described.classes if model.task.classifier else ())


def report(run: Path) -> Path | None:
    """Returns the report of a run, or of all variants of its config; None where there is none yet."""
    return next((folder / REPORT for folder in (run, run.parent) if (folder / REPORT).is_file()), None)


def row(name: str, run: Path) -> Row:
    """Returns a run as the table shows it, finished or not."""
    try:
        facts, config = runfolder.read_json(run / "run.json"), runfolder.read_json(run / "config.json")
        history = results.history(run)
    except UserError as error:
        return Row(name, line=str(error).replace(f"{run}/", ""))
    last = history[-1] if history else None
    figures = {
        test: {key: found.pooled[key] for key in facts.get("headline", ()) if key in found.pooled}
        for test, found in (last.tests if last else {}).items()
    }
    return Row(
        name,
        last.round if last else 0,
        config["rounds"],
        figures,
        last.privacy.get("epsilon") if last else None,
        facts.get("synthetic", False),
        report(run) is not None,
        ability(run),
    )
