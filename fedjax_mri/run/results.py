"""What a run has to show: judged, saved in its folder, read back for the report."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedjax_mri.core import disk, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Table
from fedjax_mri.data.resident import positions
from fedjax_mri.fed.engine.evaluate import Judged
from fedjax_mri.metrics import fairness
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.run import runfolder
from fedjax_mri.run.record import RunRecord, TestResult
from fedjax_mri.tasks.task import Task

EXPLANATIONS = "explanations.npz"


def figures(task: Task, judged: Mapping[str, Judged]) -> dict[str, float]:
    """Headline figures of each test set as "test set/figure", pooled and over clients."""
    line: dict[str, float] = {}
    for name, (metrics, _) in judged.items():
        pooled = jax.tree.map(lambda x: x.sum(0), metrics)
        scores = np.asarray(task.score(metrics))
        spread = fairness.spread(scores, np.ones_like(scores))
        named = {**task.summary(pooled), "worst_decile": spread["worst decile"], "client_std": spread["std"]}
        line |= {f"{name}/{key}" if name else key: round(float(value), 6) for key, value in named.items()}
    return line


def save(
    run: pathlib.Path,
    federation: Federation,
    judged: Mapping[str, Judged],
    shown: Mapping[str, np.ndarray],
    seconds: Mapping[str, float],
) -> None:
    """results.npz and timings.json: all that the report draws and metrics.jsonl lacks.

    `shown` are the fields [s, ...] of a few examples of the first test set.
    """
    arrays = {"labels": federation.labels, "sampled": np.array(next(iter(federation.tests)))}
    arrays |= {f"shown/{field}": value for field, value in shown.items()}
    for name, test in federation.tests.items():
        arrays |= {f"{name}/{field}": value for field, value in trees.named(judged[name].metrics).items()}
        arrays |= {f"{name}/{field}": value for field, value in judged[name].kept.items()}
        arrays |= {f"{name}/client": positions(test.data.sizes)[0], f"{name}/owner": test.owner}
    arrays |= {f"groups/{name}": np.asarray(group) for name, group in federation.groups.items()}
    runfolder.save_arrays(run / "results.npz", arrays)
    disk.write_json(run / "timings.json", seconds)


def load(run: pathlib.Path) -> RunRecord:
    """The record of one run. Raises UserError when it has not finished a segment."""
    facts, arrays = runfolder.read_json(run / "run.json"), _arrays(run / "results.npz")
    sampled, examples, names = str(arrays["sampled"]), under(arrays, "shown/"), _names(arrays)
    tests = {name: _test(arrays, name) for name in names if f"{name}/truth" in arrays}
    if tests:
        tests[sampled] = TestResult(*tests[sampled][:4], examples["image"], examples["truth"], examples["predictions"])
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
        kept={} if tests else {name: under(arrays, f"{name}/") for name in names},
        shown={} if tests else examples,
        explained=_arrays(run / EXPLANATIONS) if (run / EXPLANATIONS).exists() else {},
    )


def shown(run: pathlib.Path) -> dict[str, np.ndarray]:
    """Fields [s, ...] of a few examples of the first test set. Raises UserError as `load` does."""
    return under(_arrays(run / "results.npz"), "shown/")


def sites(run: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The training client of each test set's clients, int [M], -1 for none, and the groups of training clients [N]."""
    arrays = _arrays(run / "results.npz")
    owners = {name: arrays[f"{name}/owner"] for name in _names(arrays) if f"{name}/owner" in arrays}
    if not owners:
        raise UserError(f"{run}: does not say whose its test sets are; run `fedjax-mri train` again to finish the run")
    return owners, under(arrays, "groups/")


def under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def headline(run: pathlib.Path) -> str:
    """One line: the last figures of each test set."""
    last, wanted = runfolder.read_history(run)[-1], runfolder.read_json(run / "run.json")["headline"]
    tests = [name.rpartition("/")[0] for name in last if name.endswith("/client_std")]
    lines = (f"{name}: " + ", ".join(f"{key} {last[f'{name}/{key}']:.4f}" for key in wanted) for name in tests)
    return f"after round {last['round']:.0f}: " + "; ".join(lines)


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError):
        raise UserError(f"{path}: missing or damaged; run `fedjax-mri train` again to finish the run") from None


def _names(arrays: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix("/client") for name in arrays if name.endswith("/client")]


def _test(arrays: Mapping[str, Any], name: str) -> TestResult:
    tally = Tally._make(arrays[f"{name}/{field}"] for field in Tally._fields)
    return TestResult(tally, arrays[f"{name}/predictions"], arrays[f"{name}/truth"], arrays[f"{name}/client"])
