"""The report at the end of a run: one HTML file with every figure and table in it, fit for a paper's supplement.

`write` turns finished runs into the file; all figures of merit come from `metrics`. The page itself is `report.html`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fedjax_mri.report import explanations, run_figures, run_tables, translation
from fedjax_mri.report.figures import STYLE, png, svg
from fedjax_mri.report.page import publish
from fedjax_mri.run import config as configs
from fedjax_mri.run.record import Examples, RunRecord, TestResult

FEW = 24  # clients that are shown one by one; more are shown as a distribution


@matplotlib.rc_context(STYLE)
def write(runs: Sequence[RunRecord], path: Path) -> Path:
    """Writes the report of one or more runs to `path`, and returns it. A failure leaves an older report as it was."""
    return publish(
        path,
        names=[run.name for run in runs],
        warnings=[(run.name, warning) for run in runs for warning in run.warnings],
        comparison=_comparison(runs) if len(runs) > 1 else None,
        runs=[_section(run) for run in runs],
    )


def _comparison(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Returns what the page needs to show several runs side by side."""
    classifiers = [run for run in runs if run.tests]
    return {
        "headline": run_tables.headline(classifiers) if classifiers else None,
        "curves": svg(run_figures.curves(classifiers)) if classifiers else None,
        "parts": translation.comparison([run for run in runs if run.translations]),
        "synthetic": any(run.synthetic for run in runs),
    }


def _section(run: RunRecord) -> dict[str, Any]:
    """Returns what the page needs of one run, in its order."""
    few = len(run.labels) <= FEW
    return {
        "run": run._replace(tables=[*run.tables, *run_tables.left_out(run)]),
        "summary": _summary(run),
        "headline": run_tables.headline([run]) if run.tests else None,
        "curves": svg(run_figures.curves([run])) if run.tests else None,
        "parts": translation.parts(run) if run.translations else [],
        "explained": explanations.parts(run),
        "tests": [_test(run, name, result) for name, result in run.tests.items()],
        "partition": svg(run_figures.partition_bars(run) if few else run_figures.partition_overview(run)),
        "shares": run_tables.partition(run) if few else run_tables.partition_quantiles(run),
        "timings": run_tables.timings(run),
        "history": run_tables.history(run),
    }


def _summary(run: RunRecord) -> str:
    """Returns a sentence on the size of the run."""
    rounds = f", {run.history[-1].round:,} rounds" if run.history else ""
    clients, classes = run.labels.shape
    secure = run.config.get("secure")  # older runs have none
    hidden = configs.from_dict(secure).hides() if secure else ""
    size = f"{clients:,} training clients, {int(run.labels.sum()):,} examples, {classes} classes{rounds}."
    return size + (f" Secure aggregation: {hidden}." if hidden else "") + run_tables.attack_sentence(run)


def _test(run: RunRecord, name: str, result: TestResult) -> dict[str, Any]:
    """Returns what the page needs of one test set."""
    clients = len(result.tally.weight)
    drawn = run_figures.client_dots if clients <= FEW else run_figures.client_histogram
    return {
        "name": name,
        "spread": run_tables.accuracy_spread(result.tally),
        "clients": svg(drawn(result.tally)),
        "confusion": run_tables.confusion(result.tally),
        "classes": run_tables.by_class(run.classes, result),
        "reliability": svg(run_figures.reliability(result.tally)),
        "samples": _samples(run.classes, result.examples) if result.examples else [],
    }


def _samples(classes: Sequence[str], examples: Examples) -> list[dict[str, Any]]:
    """Returns each example's image, prediction with its confidence, and truth."""
    guesses = np.argmax(examples.probabilities, 1) if len(examples.probabilities) else []
    return [
        {
            "image": png(image),
            "prediction": classes[guess],
            "confidence": float(row[guess]),
            "truth": classes[int(truth)],
        }
        for image, guess, row, truth in zip(examples.image, guesses, examples.probabilities, examples.truth)
    ]
