"""Tells what privacy costs in a folder of studies/privacy.py: accuracy at each level and epsilon.

    fedjax-mri sweep studies/privacy.py --out runs/privacy
    python scripts/privacy_table.py runs/privacy --figure docs/privacy.png

Prints a Markdown table of means and standard deviations over seeds, and draws accuracy against epsilon.
"""

import argparse
import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedjax_mri import StudyResults
from fedjax_mri.report.figures import STYLE

LEVELS = {"client": "a hospital", "patient": "a patient"}
EPSILONS = ("epsilon 1", "epsilon 3", "epsilon 8", "no privacy")
FIGURE = "unseen sites/accuracy"


def main() -> None:
    """Prints the table and draws the figure."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("run", type=pathlib.Path, help="folder of the study")
    words.add_argument("--figure", type=pathlib.Path, help="file to draw into")
    given = words.parse_args()
    found = accuracies(StudyResults(given.run))
    print(table(found))
    if given.figure:
        draw(found, given.figure)


def accuracies(study: StudyResults) -> dict[str, dict[str, np.ndarray]]:
    """Returns the accuracies on unseen sites [seeds], by level and epsilon."""
    last = study.last()
    (axis,) = (name for name in last if name.startswith("data + "))
    return {
        level: {epsilon: last[FIGURE][last[axis] == f"{level}, {epsilon}"] for epsilon in EPSILONS} for level in LEVELS
    }


def table(found: dict[str, dict[str, np.ndarray]]) -> str:
    """Returns a Markdown table with a row for each level."""
    lines = [f"| what is protected | {' | '.join(EPSILONS)} |", "|---" * (1 + len(EPSILONS)) + "|"]
    for level, by_epsilon in found.items():
        cells = [f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" for values in by_epsilon.values()]
        lines.append(f"| {LEVELS[level]} | {' | '.join(cells)} |")
    return "\n".join(lines)


@matplotlib.rc_context(STYLE)
def draw(found: dict[str, dict[str, np.ndarray]], path: pathlib.Path) -> None:
    """Draws accuracy against epsilon, a line for each level."""
    figure = Figure(figsize=(5.5, 3.5), layout="constrained")
    ax = figure.subplots()
    for shift, (level, by_epsilon) in zip((-0.04, 0.04), found.items()):
        means, widths = zip(*((values.mean(), values.std(ddof=1)) for values in by_epsilon.values()))
        ax.errorbar(np.arange(len(EPSILONS)) + shift, means, widths, marker="o", capsize=3, label=LEVELS[level])
    ax.set_xticks(range(len(EPSILONS)), EPSILONS)
    ax.set_ylabel("accuracy on unseen sites (synthetic)")
    ax.legend(title="protected")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
