"""Compares system B's ways to train on each domain: centralised, federated, and federated with explained predictions.

    fedjax-mri train configs/system_b_demo.py --out runs/system_b
    python scripts/system_b_table.py runs/system_b

Prints a Markdown table of the runs' first test set. An explanation is made of a trained model and changes none of its
predictions. What it changes is who decides: `fedjax-mri explain` marks predictions of which the validation set says
that too many are wrong. So the last row has the figures of the predictions that are left, and says how many those are.
"""

import argparse
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.explain import triage
from fedjax_mri.metrics import classification, temperature
from fedjax_mri.run import results
from fedjax_mri.run.record import TestResult
from fedjax_mri.run.reference import calibration_set


class Row(NamedTuple):
    """Figures of one way to train."""

    data: str
    way: str
    images: int
    accuracy: float
    precision: float  # this and the next are means over classes
    recall: float
    f1: float


def main() -> None:
    """Prints the table of the runs in a folder."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("runs", type=pathlib.Path, help="folder that `train` wrote")
    try:
        print(table(rows(flags.parse_args().runs)))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def rows(folder: pathlib.Path) -> list[Row]:
    """The rows of each pair of runs NAME and NAME_centralised in a folder. Raises UserError where there are none."""
    found = list[Row]()
    for run in sorted(folder.glob("*_centralised")):
        federated = folder / run.name.removesuffix("_centralised")
        pooled, tests = results.load(run), results.load(federated)
        name = tests.name + (" (synthetic)" if tests.synthetic else "")
        central, first = (next(iter(one.tests.values())) for one in (pooled, tests))
        everything = np.ones(len(first.labels), bool)
        found += [
            figures(name, "centralised", central, everything),
            figures(name, "federated", first, everything),
            figures(name, "federated + explained", first, kept(tests.tests)),
        ]
    if not found:
        raise UserError(f"{folder}: no runs NAME and NAME_centralised; train configs/system_b_demo.py first")
    return found


def kept(tests: dict[str, TestResult]) -> np.ndarray:
    """Which images of the first test set nobody needs to look at, bool [n], as `explain` decides by the validation set.

    How unlike other images they are is not asked; they are of the run's own kind.
    """
    calibration = triage.fit(
        calibration_set({name: one.owner for name, one in tests.items()}), tests, triage.Requirements()
    )
    first = next(iter(tests.values()))
    chances = temperature.apply(temperature.logits(jnp.asarray(first.probabilities)), calibration.temperature)
    several = triage.prediction_sets(chances, calibration.limit).sum(1) > 1
    return np.asarray((chances.max(1) >= calibration.threshold) & ~several)


def figures(data: str, way: str, test: TestResult, chosen: np.ndarray) -> Row:
    """The figures of the images of a test set that are chosen, bool [n]."""
    scores = jnp.log(jnp.maximum(jnp.asarray(test.probabilities), 1e-30))
    tally = classification.tally(scores, jnp.asarray(test.labels), jnp.asarray(chosen, jnp.float32))
    means = (classification.macro(figure(tally)) for figure in (classification.precision, classification.recall))
    macro_f1 = float(classification.macro(classification.f1(tally)))
    return Row(data, way, int(chosen.sum()), float(classification.accuracy(tally)), *map(float, means), macro_f1)  # type: ignore[call-arg]


def table(rows: list[Row]) -> str:
    """A Markdown table; shares in percent."""
    lines = ["| data | trained | images | accuracy | precision | recall | F1 |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.data} | {row.way} | {row.images} | " + " | ".join(f"{100 * x:.1f}" for x in row[3:]) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
