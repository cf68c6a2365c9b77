"""What a finished run has to show, read back from its folder."""

import pathlib

import numpy as np

from fedjax_mri import runfolder
from fedjax_mri.data.client_data import Table
from fedjax_mri.errors import UserError
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.report import RunRecord, TestResult

SAMPLES = ("samples", "sample_labels", "sample_probabilities")


def load(run: pathlib.Path) -> RunRecord:
    """The record of one run. Raises UserError when it has not finished a segment."""
    facts, arrays = runfolder.read_json(run / "run.json"), _arrays(run / "results.npz")
    tests = {name: _test(arrays, name) for name in _tests(arrays)}
    first = next(iter(tests))  # the samples are of the first test set
    tests[first] = tests[first]._replace(**{name: arrays[name] for name in SAMPLES})
    return RunRecord(
        name=facts["name"],
        config=runfolder.read_json(run / "config.json"),
        environment=facts["environment"],
        history=runfolder.read_history(run),
        classes=tuple(facts["classes"]),
        labels=arrays["labels"],
        tables=[Table(**table) for table in facts["tables"]],
        warnings=facts["warnings"],
        tests=tests,
        timings=runfolder.read_json(run / "timings.json"),
        synthetic=facts["synthetic"],
    )


def headline(run: pathlib.Path) -> str:
    """One line: the last figures of each test set."""
    last = runfolder.read_history(run)[-1]
    tests = {name.rpartition("/")[0] for name in last if name.endswith("/f1") and not name.startswith("train/")}
    figures = (f"{name}: accuracy {last[name + '/accuracy']:.4f}, macro-F1 {last[name + '/f1']:.4f}" for name in tests)
    return f"round {last['round']:.0f}; " + "; ".join(sorted(figures))


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError):
        raise UserError(f"{path}: missing or damaged; run `fedjax-mri train` again to finish the run") from None


def _tests(arrays: dict[str, np.ndarray]) -> list[str]:
    return [name.removesuffix("/truth") for name in arrays if name.endswith("/truth")]


def _test(arrays: dict[str, np.ndarray], name: str) -> TestResult:
    tally = Tally._make(arrays[f"{name}/{field}"] for field in Tally._fields)
    return TestResult(tally, arrays[f"{name}/predictions"], arrays[f"{name}/truth"], arrays[f"{name}/client"])
