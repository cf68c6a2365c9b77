"""Tells what privacy costs in a folder of studies/privacy.py or privacy_slices.py: accuracy by level and epsilon.

    fedjax-mri sweep studies/privacy.py --out runs/privacy
    python scripts/privacy_table.py runs/privacy --figure docs/privacy.png

Prints a Markdown table of means and standard deviations over seeds, and draws accuracy against epsilon.
"""

import argparse
import pathlib
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedjax_mri import StudyResults
from fedjax_mri.report.figures import STYLE

LEVELS = {"client": "a hospital", "patient": "a patient, of one image"}
EPSILONS = ("epsilon 1", "epsilon 3", "epsilon 8", "no privacy")
FIGURES = {"unseen sites/accuracy": "unseen sites (synthetic)", "grouped test/accuracy": "test images (real slices)"}


def main() -> None:
    """Prints the table and draws the figure."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("run", type=pathlib.Path, help="folder of the study")
    words.add_argument("--figure", type=pathlib.Path, help="file to draw into")
    given = words.parse_args()
    last = StudyResults(given.run).last()
    figure = next(name for name in FIGURES if name in last)
    found = accuracies(last, figure)
    print(table(found))
    if given.figure:
        draw(found, FIGURES[figure], given.figure)


def accuracies(last: Mapping[str, np.ndarray], figure: str) -> dict[str, dict[str, np.ndarray]]:
    """Returns the accuracies [seeds] of the last lines of a study's cells, by level and epsilon."""
    (axis,) = (name for name in last if name.startswith("data + "))
    return {
        level: {epsilon: last[figure][last[axis] == f"{level}, {epsilon}"] for epsilon in EPSILONS} for level in LEVELS
    }


def table(found: dict[str, dict[str, np.ndarray]]) -> str:
    """Returns a Markdown table with a row for each level."""
    lines = [f"| what is protected | {' | '.join(EPSILONS)} |", "|---" * (1 + len(EPSILONS)) + "|"]
    for level, by_epsilon in found.items():
        cells = [f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" for values in by_epsilon.values()]
        lines.append(f"| {LEVELS[level]} | {' | '.join(cells)} |")
    return "\n".join(lines)


@matplotlib.rc_context(STYLE)
def draw(found: dict[str, dict[str, np.ndarray]], of: str, path: pathlib.Path) -> None:
    """Draws accuracy of something against epsilon, a line for each level."""
    figure = Figure(figsize=(5.5, 3.5), layout="constrained")
    ax = figure.subplots()
    for shift, (level, by_epsilon) in zip((-0.04, 0.04), found.items()):
        means, widths = zip(*((values.mean(), values.std(ddof=1)) for values in by_epsilon.values()))
        ax.errorbar(np.arange(len(EPSILONS)) + shift, means, widths, marker="o", capsize=3, label=LEVELS[level])
    ax.set_xticks(range(len(EPSILONS)), EPSILONS)
    ax.set_ylabel(f"accuracy on {of}")
    ax.legend(title="protected")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
