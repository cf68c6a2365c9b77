"""The report of a study: curves with intervals over seeds, a ranking with paired tests, maps over two axes, costs.

`write` turns the finished cells of a study folder into report.html, the figures as PNG, and table.csv once more.
An axis named `seed` counts as repetition; the first other axis is what is compared.
"""

import itertools
import math
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Table
from fedjax_mri.report.figures import STYLE, WIDE, PageSection, distinct, svg
from fedjax_mri.report.page import publish
from fedjax_mri.report.statistics import holm_corrected, interval, sign_flip_p
from fedjax_mri.run import runfolder
from fedjax_mri.run.line import MODALITIES, LogEntry, full_name
from fedjax_mri.study import folder

SEED = "seed"
MAX_ROWS = 12  # rows of panels
COMPARED_METRICS = ("accuracy", "ssim", *(full_name(modality, "ssim") for modality in MODALITIES))
COSTS = {"round": "round", "mb": "MB sent and received", "seconds": "simulated seconds"}


class Measured(NamedTuple):
    """What a study has measured: C cells at E evaluations, nan where a cell has fewer or lacks the figure."""

    axes: list[str]  # but for the seed
    where: list[dict[str, Any]]  # [C], values by axis, the seed among them
    costs: dict[str, np.ndarray]  # name of a cost -> [C, E], from the start
    figures: dict[str, np.ndarray]  # name of a figure of merit -> [C, E], higher is better
    synthetic: bool
    base: dict[str, Any]


@matplotlib.rc_context(STYLE)
def write(study: pathlib.Path, target: float | None = None) -> pathlib.Path:
    """Writes the report of a study folder and returns its path. Raises UserError where no cell is finished."""
    measured, parts = read(study), list[PageSection]()
    folder.write_table(study)
    for name in measured.figures:
        parts += [PageSection(name), PageSection(table=results(measured, name)), *ranking(measured, name)]
    main = next(iter(measured.figures))
    aim = 0.95 * np.nanmax(last_known(measured.figures[main])) if target is None else target
    parts += [PageSection(f"What {main} of {aim:.3f} costs", table=costs_of_target(measured, main, aim))]
    for name, caption, figure in drawings(measured, main):
        disk.write_bytes(study / f"{name}.png", disk.encoded(figure, 150))
        parts.append(PageSection(svg=svg(figure), caption=caption))
    parts = [part._replace(synthetic=measured.synthetic) for part in parts]
    settings = PageSection("Settings", settings=measured.base)
    return publish(study / "report.html", names=[study.name], parts=[*parts, settings])


def read(study: pathlib.Path) -> Measured:
    """Returns what the finished cells of a study have measured. Raises UserError where there is nothing to compare."""
    finished, index = folder.finished_cells(study), runfolder.read_json(study / "study.json")
    if not finished:
        raise UserError(f"{study}: no cell of this study is finished; run `fedjax-mri sweep` again")
    histories = [cell.history for cell in finished]
    figures = {
        name: table(histories, partial(metric_value, test, figure))
        for name, (test, figure) in compared_metrics(histories)
    }
    if not figures:
        raise UserError(f"{study}: its figures hold no accuracy of a test set to report on")
    return Measured(
        [axis for axis in index["axes"] if axis != SEED],
        [cell.where for cell in finished],
        {"round": table(histories, lambda line: line.round), **summed_costs(histories)},
        figures,
        any(cell.synthetic for cell in finished),
        index["base"],
    )


Histories = Sequence[Sequence[LogEntry]]


def compared_metrics(histories: Histories) -> list[tuple[str, tuple[str, str]]]:
    """Returns the figures that cells are compared by: full name, then test set and figure."""
    tests = histories[0][-1].tests.items()
    return [
        (full_name(test, name), (test, name))
        for test, found in tests
        for name in found.pooled
        if name in COMPARED_METRICS
    ]


def metric_value(test: str, figure: str, line: LogEntry) -> float | None:
    """Returns a figure of a test set at one evaluation; None where it was not measured."""
    return line.tests[test].pooled.get(figure) if test in line.tests else None


def table(histories: Histories, value: Callable[[LogEntry], float | None]) -> np.ndarray:
    """Returns a value of each line, [C, E]; nan where it is None and after the end of a history."""
    found = np.full((len(histories), max(map(len, histories))), np.nan)
    for cell, history in enumerate(histories):
        found[cell, : len(history)] = [math.nan if (one := value(line)) is None else one for line in history]
    return found


def summed_costs(histories: Histories) -> dict[str, np.ndarray]:
    """Returns the simulated costs from the start to each evaluation, [C, E]; those that are always 0 are left out."""
    summed = {}
    for name, cost in {"mb": megabytes, "seconds": seconds}.items():
        each = table(histories, cost)
        each[:, 0] = np.nan_to_num(each[:, 0], nan=0.0)  # before the first round
        summed[name] = np.cumsum(each, axis=1)
    return {name: sums for name, sums in summed.items() if np.nanmax(sums) > 0}


def megabytes(line: LogEntry) -> float | None:
    """Returns the MB sent both ways in the simulated world during a segment; None where that is not known."""
    spent = line.training.simulated if line.training else None
    return None if spent is None or spent.up_mb is None or spent.down_mb is None else spent.up_mb + spent.down_mb


def seconds(line: LogEntry) -> float | None:
    """Returns the seconds of a segment on the simulated clock; None where they are not known."""
    return line.training.simulated.seconds if line.training else None


def last_known(table: np.ndarray) -> np.ndarray:
    """Returns the last value of each row of [C, E] that is not nan."""
    there = ~np.isnan(table)
    return table[np.arange(len(table)), table.shape[1] - 1 - there[:, ::-1].argmax(1)]


def variants(measured: Measured, axes: Sequence[str]) -> dict[tuple[Any, ...], np.ndarray]:
    """Returns the places [n] of the cells that share their values on some axes, by these values.

    They are in the order of the study.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for cell, where in enumerate(measured.where):
        groups.setdefault(tuple(where[axis] for axis in axes), []).append(cell)
    return {values: np.array(cells) for values, cells in groups.items()}


# Figures with their uncertainty


def results(measured: Measured, name: str) -> Table:
    """Returns a table of the last figure of each combination of values, over seeds."""
    values, rows = last_known(measured.figures[name]), []
    for where, cells in variants(measured, measured.axes).items():
        low, high = interval(values[cells])
        spread = values[cells].std(ddof=1) if len(cells) > 1 else math.nan
        rows.append((*where, len(cells), float(values[cells].mean()), float(low), float(high), float(spread)))
    note = "After the last round. Mean over seeds; 95 % interval of the mean: percentile bootstrap over seeds."
    return Table("Results", (*measured.axes, "cells", "mean", "from", "to", "std over seeds"), rows, note)


def ranking(measured: Measured, name: str) -> list[PageSection]:
    """Returns a table that compares each value of the first axis with the axis's first value in pairs.

    The best value is first.
    """
    if not measured.axes:
        return []
    values, (axis, *others) = last_known(measured.figures[name]), measured.axes
    pairs = {
        value: by_other_axes(measured, axis, value, values, [*others, SEED]) for (value,) in variants(measured, [axis])
    }
    if len(pairs) < 2:
        return []
    reference = next(iter(pairs))
    gaps = {value: difference(ours, pairs[reference]) for value, ours in pairs.items()}
    tested = [value for value in pairs if value != reference]
    p = dict(zip(tested, holm_corrected([sign_flip_p(seed_means(gaps[value])) for value in tested])))
    order = sorted(pairs, key=lambda value: -float(seed_means(gaps[value]).mean()) if gaps[value] else math.inf)
    rows = [ranking_row(value, pairs[value], seed_means(gaps[value]), p.get(value, math.nan)) for value in order]
    seeds = max(len(seed_means(gap)) for gap in gaps.values())
    note = (
        f"Difference: to {reference}, at the same seed and the same values of the other axes, mean over the latter; "
        f"95 % bootstrap interval over {seeds} seeds. p: random signs of the seeds' differences, two-sided, Holm's "
        f"correction; of {seeds} seeds no p is below {2.0 ** (1 - seeds):.2g} before it."
    )
    return [
        PageSection(
            table=Table(f"Ranking by {axis}", (axis, "cells", "mean", "difference", "from", "to", "p"), rows, note)
        )
    ]


def ranking_row(value: Any, ours: "ByOtherAxes", gaps: np.ndarray, p: float) -> tuple[Any, ...]:
    """Returns the row of a value: its cells, their mean, its gaps [seeds] to the axis's first value, and their p."""
    mean, (low, high) = float(np.mean(list(ours.values()))), interval(gaps)
    return value, len(ours), mean, float(gaps.mean()) if gaps.size else math.nan, float(low), float(high), p


ByOtherAxes = dict[tuple[Any, ...], float]  # values on the other axes, the seed last -> figure


def by_other_axes(measured: Measured, axis: str, value: Any, values: np.ndarray, others: Sequence[str]) -> ByOtherAxes:
    """Returns the figures of the cells with that value on the axis, by their values on the other axes."""
    places = (cell for cell, where in enumerate(measured.where) if where[axis] == value)
    return {tuple(measured.where[cell].get(other) for other in others): float(values[cell]) for cell in places}


def difference(ours: ByOtherAxes, theirs: ByOtherAxes) -> ByOtherAxes:
    """Returns our figure less theirs, at each combination of other values where both have one."""
    return {block: ours[block] - theirs[block] for block in ours if block in theirs}


def seed_means(gaps: ByOtherAxes) -> np.ndarray:
    """Returns the mean gap of each seed, [seeds]."""
    seeds = dict.fromkeys(block[-1] for block in gaps)
    return np.array([np.mean([gap for block, gap in gaps.items() if block[-1] == seed]) for seed in seeds])


def costs_of_target(measured: Measured, name: str, aim: float) -> Table:
    """Returns a table of what each combination of values cost until its figure first reached the aim.

    Costs are medians over seeds.
    """
    there = measured.figures[name] >= aim
    ever, when = np.asarray(there.any(1)), there.argmax(1)
    rows = []
    for where, cells in variants(measured, measured.axes).items():
        costs = [np.where(ever, spent[np.arange(len(spent)), when], np.inf)[cells] for spent in measured.costs.values()]
        medians = [float(np.median(cost)) for cost in costs]
        rows.append((*where, f"{ever[cells].sum()} of {len(cells)}", *("–" if math.isinf(m) else m for m in medians)))
    note = "Median over seeds, those that never reached it counted as slowest; a dash: half of them or more never did."
    return Table(
        "Costs to the target", (*measured.axes, "reached", *(COSTS[name] for name in measured.costs)), rows, note
    )


# Figures


def drawings(measured: Measured, name: str) -> list[tuple[str, str, Figure]]:
    """Returns the figures with file name and caption: curves, then a heat map for each pair of axes."""
    caption = f"{name} against what it costs: mean over seeds, and the 95 % bootstrap interval of the mean."
    figures = [("curves", caption, curves(measured, name))]
    for first, second in itertools.combinations(measured.axes[:3], 2):
        if min(len(variants(measured, [axis])) for axis in (first, second)) > 1:
            caption = f"{name} after the last round by {first} and {second}: mean over seeds and all other axes."
            figures.append((f"map-{len(figures)}", caption, heat_map(measured, name, first, second)))
    return figures


def curves(measured: Measured, name: str) -> Figure:
    """Draws curves against costs.

    There is a column for each cost, a row for the values of later axes, and a line for each value of the first axis.
    """
    rows = list(variants(measured, measured.axes[1:]).items())[:MAX_ROWS]
    figure = Figure(figsize=(WIDE, 0.6 + 2.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(measured.costs), squeeze=False, sharey=True, sharex="col")
    lines = [value for (value,) in variants(measured, measured.axes[:1])] if measured.axes else [""]
    colours = dict(zip(lines, distinct(len(lines))))
    for row, (where, cells) in zip(axes, rows):
        for ax, cost in zip(row, measured.costs):
            for value, colour in colours.items():
                mine = [cell for cell in cells if not measured.axes or measured.where[cell][measured.axes[0]] == value]
                if mine:
                    line(ax, measured.costs[cost][mine], measured.figures[name][mine], colour, str(value))
        row[0].set_title(", ".join(f"{axis} {value}" for axis, value in zip(measured.axes[1:], where)))
        row[0].set_ylabel(name)
    for ax, cost in zip(axes[-1], measured.costs):
        ax.set_xlabel(COSTS[cost])
    if measured.axes:
        axes[0, -1].legend(title=measured.axes[0], loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def line(ax: Axes, costs: np.ndarray, values: np.ndarray, colour: Any, label: str) -> None:
    """Plots the mean of values [n, E] against their mean costs [n, E], with its interval."""
    whole = np.flatnonzero(~np.isnan(values + costs).any(0))
    x, (low, high) = costs[:, whole].mean(0), interval(values[:, whole])
    ax.plot(x, values[:, whole].mean(0), color=colour, label=label)
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def heat_map(measured: Measured, name: str, first: str, second: str) -> Figure:
    """Draws a heat map of the means by two axes, with the numbers in it."""
    values, cells = last_known(measured.figures[name]), variants(measured, [first, second])
    down, across = ([value for (value,) in variants(measured, [axis])] for axis in (first, second))
    means = [[values[cells[a, b]].mean() if (a, b) in cells else math.nan for b in across] for a in down]
    figure = Figure(figsize=(min(WIDE, 2.8 + 0.9 * len(across)), 1.0 + 0.42 * len(down)), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(means, aspect="auto", cmap="viridis")
    ax.set_xticks(range(len(across)), [str(value) for value in across])
    ax.set_yticks(range(len(down)), [str(value) for value in down])
    ax.set(xlabel=second, ylabel=first)
    ax.grid(False)
    middle = np.nanmean([np.nanmin(means), np.nanmax(means)])
    for (row, column), mean in np.ndenumerate(means):
        ax.text(column, row, f"{mean:.3f}", ha="center", va="center", color="black" if mean > middle else "white")
    figure.colorbar(image, label=name)
    return figure
