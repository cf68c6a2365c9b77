"""The audit's files in the run's folder: tables for programs, a page and pictures for people."""

import csv
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Table
from fedjax_mri.report import figures, leave_one_out, run_tables
from fedjax_mri.report.audit import SITE, Row, audit, spreads
from fedjax_mri.report.statistics import mean_of_known
from fedjax_mri.run import restore, results, runfolder


def write(run: pathlib.Path, leave: bool, rounds: int, say: Callable[[str], None]) -> list[pathlib.Path]:
    """Writes audit.csv, audit.md and audit.png of a run; with `leave` also what leaving each site out shows.

    `rounds` of each training without a site; 0: as many as the run. Raises UserError where there is no such run.
    """
    facts = runfolder.read_json(run / "run.json")
    if rounds < 0:
        raise UserError(f"--rounds {rounds}: must be 1 or more, or 0 for as many as the run had")
    if leave:
        leave_one_out.refuse_many(facts["clients"])
    found = audit(run)
    gain = gains(run, rounds, say) if leave else None
    disk.write_text(run / "audit.csv", table(facts["classes"], found))
    disk.write_text(run / "audit.md", page(facts, found, gain, run_tables.left_out(results.load(run))))
    with matplotlib.rc_context(figures.STYLE):
        disk.write_bytes(run / "audit.png", disk.encoded(draw(found, facts["synthetic"]), 150))
    written = [run / f"audit.{kind}" for kind in ("csv", "md", "png")]
    return written if gain is None else [*written, *write_gains(run, gain, facts["synthetic"])]


def gains(run: pathlib.Path, rounds: int, say: Callable[[str], None]) -> np.ndarray:
    """Returns what `leave_one_out.gains` finds for a run; `rounds` as in `write`."""
    config = runfolder.read_config(run)
    federation = restore.rebuild_data(run, config, say)
    return leave_one_out.gains(config, federation, rounds or config.rounds, say)


def write_gains(run: pathlib.Path, gain: np.ndarray, synthetic: bool) -> list[pathlib.Path]:
    """Writes leave_one_out.csv and leave_one_out.png; gain [N, N] as `leave_one_out.gains` gives it."""
    heading = ["site taking part", *(f"for site {j}" for j in range(len(gain)))]
    lines = [[f"site {k}", *row.tolist()] for k, row in enumerate(gain)]
    disk.write_text(run / "leave_one_out.csv", comma_separated([heading, *lines]))
    with matplotlib.rc_context(figures.STYLE):
        disk.write_bytes(run / "leave_one_out.png", disk.encoded(heat(gain, synthetic), 150))
    return [run / "leave_one_out.csv", run / "leave_one_out.png"]


def table(classes: Sequence[str], found: Sequence[Row]) -> str:
    """Returns the text of audit.csv: all rows, with a column for the sensitivity to each class."""
    heading = [*Row._fields[:-1], *(f"sensitivity to {name}" for name in classes)]
    return comma_separated([heading, *((*row[:-1], *row.recall) for row in found)])


def comma_separated(lines: Sequence[Sequence[Any]]) -> str:
    """Returns lines as CSV, fractions with six digits."""
    text = io.StringIO()
    cells = [[f"{value:.6g}" if isinstance(value, float) else value for value in line] for line in lines]
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def page(
    facts: Mapping[str, Any], found: Sequence[Row], gain: np.ndarray | None, left_out: Sequence[Table] = ()
) -> str:
    """Returns the text of audit.md, which an auditor reads first."""
    said = "All figures are from synthetic data. " if facts["synthetic"] else ""
    parts = [
        f"# Audit of {facts['name']}",
        f"{said}Sensitivity is the macro average over classes, calibration 1 - ECE (15 bins); 1 is best. The gap is "
        "best less worst, Jain's index 1 when all are equal. Every group counts the same.",
        *evenness(found),
        *worst_sites(found),
        *left_out_sites(left_out),
        *([] if gain is None else gains_section(gain)),
    ]
    return "\n\n".join(parts) + "\n"


def evenness(found: Sequence[Row]) -> list[str]:
    """Returns the sections on how figures are spread over sites and groups, and on each group."""
    names = ("mean", "worst", "best", "gap", "jain")
    spread = [(*which, values["clients"], *(values[name] for name in names)) for *which, values in spreads(found)]
    groups = [row[:-1] for row in found if row.grouping != SITE]
    return [
        "## How evenly the model serves",
        markdown(("test set", "over", "figure", "groups", *names), spread),
        "## Groups of sites",
        markdown(Row._fields[:-1], groups) if groups else "No test set belongs to training sites.",
    ]


def worst_sites(found: Sequence[Row], count: int = 10) -> list[str]:
    """Returns the section on the `count` sites with the lowest accuracy."""
    sites = sorted((row for row in found if row.grouping == SITE), key=lambda row: row.accuracy)
    return ["## The sites served worst", markdown(Row._fields[:-1], [row[:-1] for row in sites[:count]])]


def left_out_sites(tables: Sequence[Table]) -> list[str]:
    """Returns the section on the sites that the server's rule left out most often; none if it does not say."""
    parts = list[str]()
    for table in tables:
        said = (f"{site} was left out in {n} of {rounds} rounds" for site, n, rounds, *_ in table.rows)
        attacks = (", and attacks" * bool(row[-1]) for row in table.rows)
        parts += [f"## {table.title}", table.note, "\n".join(f"- {a}{b}" for a, b in zip(said, attacks))]
    return parts


def gains_section(gain: np.ndarray) -> list[str]:
    """Returns the section on what leaving each site out has shown; gain [N, N] as `leave_one_out.gains` gives it."""
    others = np.where(np.eye(len(gain), dtype=bool), np.nan, gain)
    lines = [
        (
            f"site {k}",
            int(np.sum(row > 0)),
            int(np.sum(row < 0)),
            mean_of_known(row),
            float(gain[k, k]),
            mean_of_known(others[:, k]),
        )
        for k, row in enumerate(others)
    ]
    heading = ("site", "helps", "hurts", "mean gain of the others", "its own gain", "mean gain from another")
    return [
        "## Whom each site helps",
        "The score with everyone less the score without the site: above 0, its taking part helped. One training each.",
        markdown(heading, lines),
    ]


def markdown(heading: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Returns a Markdown table, fractions with three digits."""
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in rows)


def cell(value: Any) -> str:
    """Returns the text of a value in a Markdown table's cell."""
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "/")


def draw(found: Sequence[Row], synthetic: bool) -> Figure:
    """Draws the accuracy of each group of sites with its 95 % interval, in a panel for each test set and grouping."""
    panels = list(dict.fromkeys((row.test, row.grouping) for row in found))
    figure = Figure(figsize=(figures.WIDE, 2.6 * len(panels)), layout="constrained")
    for ax, (test, grouping) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels):
        mine = [row for row in found if (row.test, row.grouping) == (test, grouping)]
        panel(ax, sorted(mine, key=lambda row: row.accuracy) if grouping == SITE else mine)
        ax.set(title=f"{test}, by {grouping}" + ", synthetic" * synthetic, ylabel="accuracy", ylim=(-0.03, 1.03))
    return figure


def panel(ax: Axes, rows: Sequence[Row]) -> None:
    """Draws a point for each row, with its name where there is room."""
    place = np.arange(len(rows))
    ax.vlines(place, [row.low for row in rows], [row.high for row in rows], color=figures.COLOURS[0], alpha=0.4)
    ax.plot(place, [row.accuracy for row in rows], "o", color=figures.COLOURS[0], markersize=4)
    named = rows if len(rows) <= 8 else []
    ax.set_xticks(place[: len(named)], [row.name for row in named])


def heat(gain: np.ndarray, synthetic: bool) -> Figure:
    """Draws the matrix of gains, blue where a site helps another, red where it hurts."""
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    ax, most = figure.subplots(), max(float(np.nanmax(np.abs(gain), initial=0.0)), 1e-6)
    picture = ax.imshow(gain, cmap="RdBu", vmin=-most, vmax=most)
    figure.colorbar(picture, label="gain in score by its taking part")
    ax.set(title="Whom each site helps" + ", synthetic" * synthetic, xlabel="for site", ylabel="site taking part")
    ax.grid(False)
    return figure
