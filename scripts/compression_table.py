"""Tells what compression costs and saves in a folder of studies/compression.py, on links of three speeds.

    fedjax-mri sweep studies/compression.py --out runs/compression
    python scripts/compression_table.py runs/compression --figure docs/compression.png

Prints a Markdown table. Links are equally fast for all hospitals of the study, so a round takes on another link the
same time for its steps, and time in proportion to its bytes for the rest.
"""

import argparse
import csv
import pathlib
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedjax_mri.report.figures import STYLE, WIDE, distinct
from fedjax_mri.report.statistics import interval

CLIENTS, UP, DOWN = 20, 10.0, 50.0  # hospitals, and Mbit/s, of the study
LINKS = {"1": 0.1, "10": 1.0, "100": 10.0}  # Mbit/s up -> speed over that of the study
TARGET = 0.6
FIGURE = "unseen sites/accuracy"


class Runs(NamedTuple):
    """The runs of one way to compress: S seeds at E evaluations, from round 0."""

    accuracy: np.ndarray  # [S, E]
    up: np.ndarray  # [S, E], MB that one hospital has sent
    seconds: dict[str, np.ndarray]  # Mbit/s up -> [S, E], on the virtual clock


def main() -> None:
    """Prints the table and draws the figure."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("study", type=pathlib.Path, help="folder that `sweep` wrote, or its table.csv")
    flags.add_argument("--figure", type=pathlib.Path)
    given = flags.parse_args()
    ways = read(given.study if given.study.is_file() else given.study / "table.csv")
    print(table(ways))
    if given.figure:
        draw(ways).savefig(given.figure, dpi=110)


def read(path: pathlib.Path) -> dict[str, Runs]:
    """Returns the runs of each way to compress, in the order of the study."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["uplink.stages + downlink"], {}).setdefault(row["seed"], []).append(row)
    return {way: runs(list(seeds.values())) for way, seeds in found.items()}


def runs(seeds: list[list[dict[str, str]]]) -> Runs:
    """Returns the runs of the seeds of one way to compress."""

    def summed(name: str) -> np.ndarray:
        return np.cumsum([[float(row[f"simulated/{name}"] or 0) for row in rows] for rows in seeds], 1)

    up, down, seconds = summed("up_mb") / CLIENTS, summed("down_mb") / CLIENTS, summed("seconds")
    link = 8 * (up / UP + down / DOWN)
    accuracy = np.array([[float(row[FIGURE]) for row in rows] for rows in seeds])
    return Runs(accuracy, up, {name: seconds - link + link / faster for name, faster in LINKS.items()})


def table(ways: dict[str, Runs]) -> str:
    """Returns the Markdown table."""
    aim, rounds = f"{TARGET:.0%}", 30
    lines = [
        "| compression | KB up a round | times fewer | accuracy | points lost, by seed | "
        f"MB up to {aim} | "
        f"seconds to {aim} at {', '.join(LINKS)} Mbit/s up |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(ways.values()))
    whole, reference = first.up[0, -1], first.accuracy[:, -1]
    for way, found in ways.items():
        last, sent = found.accuracy[:, -1], found.up[0, -1]
        lost = ", ".join(f"{100 * one:.1f}" for one in reference - last)
        seconds = ", ".join(to_target(found.accuracy, found.seconds[link]) for link in LINKS)
        lines.append(
            f"| {way} | {1000 * sent / rounds:.3g} | {whole / sent:.3g} | {100 * last.mean():.1f} % | {lost} | "
            f"{to_target(found.accuracy, found.up)} | {seconds} |"
        )
    return "\n".join(lines)


def to_target(accuracy: np.ndarray, costs: np.ndarray) -> str:
    """Returns the median over seeds of the costs [S, E] at which the accuracy [S, E] first reaches the target."""
    there = accuracy >= TARGET
    first = np.where(there.any(1), costs[np.arange(len(costs)), there.argmax(1)], np.inf)
    median = float(np.median(first))
    return f"{median:.3g}" if np.isfinite(median) else "–"


@matplotlib.rc_context(STYLE)
def draw(ways: dict[str, Runs]) -> Figure:
    """Returns accuracy against megabytes up and against simulated seconds on each link."""
    figure = Figure(figsize=(WIDE, 3.4), layout="constrained")
    panels = figure.subplots(1, 1 + len(LINKS), sharey=True)
    for (way, found), colour in zip(ways.items(), distinct(len(ways))):
        for ax, cost in zip(panels, (found.up, *found.seconds.values())):
            low, high = interval(found.accuracy)
            ax.plot(cost.mean(0)[1:], found.accuracy.mean(0)[1:], color=colour, label=way)
            ax.fill_between(cost.mean(0)[1:], low[1:], high[1:], color=colour, alpha=0.12, linewidth=0)
    for ax, name in zip(panels, ("MB up, a hospital", *(f"seconds at {link} Mbit/s" for link in LINKS))):
        ax.set(xlabel=name)
    panels[0].set_xscale("log")
    panels[0].set_ylabel("accuracy, unseen sites (synthetic)")
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


if __name__ == "__main__":
    main()
