"""Compares one classifier trained centralised, federated over four hospitals, and locally in each: figures over seeds.

    python scripts/diagnosis_table.py --root PATH

Trains `configs/brain_tumor_federated.py` for the same number of rounds each way, with one epoch of all slices a round.
Prints a Markdown table of means and standard deviations over seeds. Each seed has another split, other hospitals and
another initial model. Runs that are finished in --out are not repeated. With local training, each hospital's model is
evaluated on that hospital's test images.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedjax_mri.core import environment
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.metrics import classification
from fedjax_mri.run import config, experiment, results
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.record import TestResult

HOME = pathlib.Path(__file__).parent.parent
Figures = dict[str, float]


def main() -> None:
    """Trains each way with each seed, then prints the table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--root", required=True, help="folder of the slices")
    flags.add_argument("--rounds", type=int, default=20)
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--out", type=pathlib.Path, default=HOME / "runs" / "diagnosis")
    words = flags.parse_args()
    environment.prepare_jax()
    try:
        print(table(found(ways(words.root, words.rounds), words.seeds, words.out)))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def ways(root: str, rounds: int) -> dict[str, Experiment]:
    """The recipe for real slices in three arrangements."""
    recipe, pooled = (
        config.load(HOME / "configs" / f"brain_tumor_{name}.py")[""] for name in ("federated", "centralised")
    )
    federated = replace(recipe, data=replace(recipe.data, root=root), rounds=rounds, evaluate_every=rounds)
    return {
        "centralised": replace(federated, data=Pooled(federated.data), plan=pooled.plan),
        "federated": federated,
        "local only": replace(federated, algorithm=LocalOnly()),
    }


def found(ways: Mapping[str, Experiment], seeds: int, out: pathlib.Path) -> dict[str, list[Figures]]:
    """Way -> the figures of each seed's run. Raises UserError as a run does, and where one was stopped."""
    return {
        name: [
            figures(finished(replace(one, seed=seed), out / f"{name.replace(' ', '_')}_{seed}"))
            for seed in range(seeds)
        ]
        for name, one in ways.items()
    }


def finished(one: Experiment, run: pathlib.Path) -> TestResult:
    """Returns the test result of a run, and trains it first if it is not finished."""
    if stopped := experiment.run(one, run, watch=lambda progress: print(run.name, progress.round, flush=True)):
        raise UserError(f"{stopped.name}: the same command goes on from there")
    return next(iter(results.load(run).tests.values()))


def figures(test: TestResult) -> Figures:
    """Returns figures of a run; all but accuracy and calibration are means over classes."""
    pooled = classification.pool(test.tally)
    each = {
        "sensitivity": classification.recall,
        "specificity": classification.specificity,
        "macro-F1": classification.f1,
    }
    return {
        "accuracy": float(classification.accuracy(pooled)),
        **{name: float(classification.macro(figure(pooled))) for name, figure in each.items()},
        "AUC": classification.macro_auc(test.probabilities, test.labels),
        "ECE": float(classification.ece(pooled)),
    }


def table(found: Mapping[str, Sequence[Figures]]) -> str:
    """Markdown: mean and standard deviation over the runs of each way."""
    names = list(next(iter(found.values()))[0])
    lines = [f"| | runs | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for way, runs in found.items():
        values = np.array([[one[name] for name in names] for one in runs])
        spread = values.std(0, ddof=1) if len(runs) > 1 else np.full(len(names), np.nan)
        cells = (f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in zip(values.mean(0), spread))
        lines.append(f"| {way} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
