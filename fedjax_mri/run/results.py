"""What a run has to show: figures of its evaluations; results.npz, explanations.npz, reference.npz written and read.

Only this file knows the names of the arrays in these files.
"""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedjax_mri.core import disk, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Table
from fedjax_mri.data.resident import positions
from fedjax_mri.fed.engine.evaluate import Evaluation
from fedjax_mri.fed.engine.simulation import Simulation, State
from fedjax_mri.metrics import fairness
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.metrics.outliers import Gaussians
from fedjax_mri.run import line, runfolder
from fedjax_mri.run.checkpoint import saved_rounds
from fedjax_mri.run.line import MODALITIES, LogEntry, TestFigures
from fedjax_mri.run.record import (
    Examples,
    Explained,
    MadeImages,
    Reference,
    RunRecord,
    Selection,
    TestResult,
    TranslatedExamples,
    TranslationResult,
)
from fedjax_mri.tasks.task import Task

RESULTS = "results.npz"
EXPLANATIONS = "explanations.npz"
REFERENCE = "reference.npz"
KINDS = ("made", "back")  # of images that a translation task shows beside the true ones
MAP = "map/"  # prefix of the maps in explanations.npz
SELECTION = "selection/"  # prefix of what the rule left out in results.npz
Arrays = Mapping[str, np.ndarray]


def metrics_by_test(task: Task, evaluations: Mapping[str, Evaluation]) -> dict[str, TestFigures]:
    """Returns the figures of each test set, rounded to six digits: the task's over all examples, and their spread."""
    return {name: _test_metrics(task, one) for name, one in evaluations.items()}


def _test_metrics(task: Task, evaluation: Evaluation) -> TestFigures:
    pooled = task.summary(jax.tree.map(lambda x: x.sum(0), evaluation.metrics))
    scores = np.asarray(task.score(evaluation.metrics))
    spread = fairness.spread(scores, np.ones_like(scores))
    rounded = {name: round(float(value), 6) for name, value in pooled.items()}
    return TestFigures(rounded, round(spread["worst decile"], 6), round(spread["std"], 6))


def save(
    run: pathlib.Path,
    round: int,
    federation: Federation,
    evaluations: Mapping[str, Evaluation],
    shown: Arrays,
    seconds: Mapping[str, float],
    selection: Selection | None = None,
) -> None:
    """Writes results.npz and timings.json: all that the report draws and metrics.jsonl lacks.

    `evaluations` are of the model after `round`, `shown` the fields [s, ...] of a few examples of the first test set.
    """
    arrays = {"labels": federation.labels, "sampled": np.array(next(iter(federation.tests)))}
    arrays |= {f"shown/{field}": value for field, value in shown.items()}
    arrays |= test_arrays(round, federation, evaluations)
    arrays |= {f"groups/{name}": np.asarray(group) for name, group in federation.groups.items()}
    arrays |= {} if selection is None else {f"{SELECTION}{name}": one for name, one in selection._asdict().items()}
    runfolder.save_arrays(run / RESULTS, arrays)
    disk.write_json(run / "timings.json", seconds)


def save_best(run: pathlib.Path, round: int, federation: Federation, evaluations: Mapping[str, Evaluation]) -> None:
    """Writes best/results.npz: the evaluations of the best model, which is that after `round`."""
    runfolder.save_arrays(run / "best" / RESULTS, test_arrays(round, federation, evaluations))


def test_arrays(round: int, federation: Federation, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Returns what is kept of evaluations after `round`: metrics, and figures and owner of each example."""
    arrays: dict[str, Any] = {"round": np.array(round)}
    for name, test in federation.tests.items():
        fields = {**trees.named(evaluations[name].metrics), **evaluations[name].kept}
        fields |= {"client": positions(test.data.sizes)[0], "owner": test.owner}
        arrays |= {f"{name}/{field}": value for field, value in fields.items()}
    return arrays


def selection(sim: Simulation, state: State) -> Selection | None:
    """Returns how often the rule left out each client's update; None where it does not say."""
    if not sim.uplink.reduce.reports_shares:
        return None
    rounds, left_out = (np.asarray(each) for each in (state.clients.rounds, state.clients.left_out))
    return Selection(
        rounds, left_out, np.zeros(len(rounds), bool) if sim.attacking is None else np.asarray(sim.attacking)
    )


def load(run: pathlib.Path) -> RunRecord:
    """Returns the record of one run. Raises UserError when it has not finished a segment."""
    facts, arrays = runfolder.read_json(run / "run.json"), _read(run / RESULTS)
    fields, tests = {name: _under(arrays, f"{name}/") for name in _test_sets(arrays)}, _tests(arrays)
    old = older_than_model(run, arrays)
    if tests:
        sampled = str(arrays["sampled"])
        tests[sampled] = tests[sampled]._replace(examples=_examples(_under(arrays, "shown/")))
    return RunRecord(
        name=facts["name"],
        config=runfolder.read_json(run / "config.json"),
        environment=facts["environment"],
        history=history(run),
        classes=tuple(facts["classes"]),
        labels=arrays["labels"],
        tables=[Table(**table) for table in facts["tables"]],
        warnings=[*facts["warnings"], *([old] if old else [])],
        timings=runfolder.read_json(run / "timings.json"),
        synthetic=facts["synthetic"],
        tests=tests,
        translations={} if tests else {name: _translation(one) for name, one in fields.items()},
        translated_examples=translated_examples(_under(arrays, "shown/")),
        groups=_under(arrays, "groups/"),
        explained=_explained(run / EXPLANATIONS),
        selection=Selection(**chosen) if (chosen := _under(arrays, SELECTION)) else None,
    )


def explained_tests(run: pathlib.Path) -> dict[str, TestResult]:
    """Returns the test results of the model that `explain` takes: the best where one is kept, else the newest.

    Raises UserError where they are missing, or are those of another round.
    """
    home = run / "best" if (run / "best").is_dir() else run
    arrays = _read(home / RESULTS)
    if old := older_than_model(home, arrays):
        raise UserError(old)
    return _tests(arrays)


def older_than_model(home: pathlib.Path, arrays: Arrays) -> str:
    """Returns in words that results and the newest model of a folder are of different rounds; empty if not."""
    saved = saved_rounds(home)
    if "round" not in arrays or not saved or arrays["round"] == saved[-1]:
        return ""
    return (
        f"{home / RESULTS}: of round {arrays['round']}, and the newest model is of round {saved[-1]}; the same "
        "`fedjax-mri train` command finishes the run"
    )


def history(run: pathlib.Path) -> list[LogEntry]:
    """Returns the lines of a run's metrics.jsonl."""
    return [line.parse(values) for values in runfolder.read_history(run)]


def examples(run: pathlib.Path) -> Examples | None:
    """Returns a few examples of the first test set of a classifier; None of another task.

    Raises UserError as `load` does.
    """
    return _examples(_under(_read(run / RESULTS), "shown/"))


def translated_examples(shown: Arrays) -> TranslatedExamples | None:
    """Returns the fields that a translation task shows of a few examples, by modality; None for another task."""
    true = {name: shown[name] for name in MODALITIES if name in shown}
    made, back = ({name: shown[f"{kind}_{name}"] for name in MODALITIES if f"{kind}_{name}" in shown} for kind in KINDS)
    return TranslatedExamples(true, made, back) if made else None


def headline(run: pathlib.Path) -> str:
    """Returns one line with the last figures of each test set."""
    last, wanted = history(run)[-1], runfolder.read_json(run / "run.json")["headline"]
    tests = (
        f"{name}: " + ", ".join(f"{key} {found.pooled[key]:.4f}" for key in wanted)
        for name, found in last.tests.items()
    )
    return f"after round {last.round}: " + "; ".join(tests)


def save_explained(run: pathlib.Path, explained: Explained) -> None:
    """Writes the maps of a run's explained examples into its explanations.npz."""
    fields = explained._asdict()
    maps, mask = fields.pop("maps"), fields.pop("mask")
    arrays = {("chance" if name == "truth_probability" else name): value for name, value in fields.items()}
    arrays |= {f"{MAP}{method}": value for method, value in maps.items()} | ({} if mask is None else {"mask": mask})
    runfolder.save_arrays(run / EXPLANATIONS, arrays)


def _explained(path: pathlib.Path) -> Explained | None:
    if not path.exists():
        return None
    arrays = _read(path)
    rounds, truth, image, chance = (arrays[name] for name in ("rounds", "truth", "image", "chance"))
    return Explained(rounds, truth, image, chance, _under(arrays, MAP), arrays.get("mask"))


def save_reference(run: pathlib.Path, reference: Reference) -> None:
    """Writes what a run keeps of its images into its reference.npz."""
    arrays = {f"{kind}/distances": found for kind, found in reference.distances.items()}
    for kind, known in reference.gaussians.items():
        arrays |= {f"{kind}/{name}": value for name, value in known._asdict().items()}
    runfolder.save_arrays(run / REFERENCE, arrays)


def reference(run: pathlib.Path) -> Reference | None:
    """Returns what a run has kept of its images; None where it has kept nothing, as runs of older versions."""
    if not (run / REFERENCE).exists():
        return None
    arrays = _read(run / REFERENCE)
    kinds = [name.removesuffix("/distances") for name in arrays if name.endswith("/distances")]
    known = {kind: Gaussians._make(arrays[f"{kind}/{name}"] for name in Gaussians._fields) for kind in kinds}
    return Reference(known, {kind: arrays[f"{kind}/distances"] for kind in kinds})


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: missing or damaged; run `fedjax-mri train` again to finish the run") from None


def _under(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _test_sets(arrays: Arrays) -> list[str]:
    return [name.removesuffix("/client") for name in arrays if name.endswith("/client")]


def _tests(arrays: Arrays) -> dict[str, TestResult]:
    fields = {name: _under(arrays, f"{name}/") for name in _test_sets(arrays)}
    return {name: _test(one) for name, one in fields.items() if "truth" in one}


def _test(fields: Arrays) -> TestResult:
    tally = Tally._make(fields[name] for name in Tally._fields)
    return TestResult(tally, fields["predictions"], fields["truth"], fields["client"], fields.get("owner"))


def _examples(shown: Arrays) -> Examples | None:
    if not ("image" in shown and "truth" in shown):
        return None
    return Examples(shown["image"], shown["truth"], shown["predictions"], shown.get("mask"))


def _translation(fields: Arrays) -> TranslationResult:
    by_modality = {to: _under(fields, f"{to}/") for to in MODALITIES}
    made = {
        to: MadeImages(*(one[name] for name in ("ssim", "made", "real")))
        for to, one in by_modality.items()
        if "ssim" in one
    }
    return TranslationResult(fields["client"], made)
