"""What a study has found: curves with intervals over seeds, a ranking with paired tests, maps over two axes, costs.

`write` turns the finished cells of a study folder into report.html, the figures as PNG, and table.csv once more.
An axis named `seed` counts as repetition; the first other axis is what is compared.
"""

import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Table
from fedjax_mri.report.figures import STYLE, WIDE, Part, distinct, svg
from fedjax_mri.report.run import publish
from fedjax_mri.run import runfolder
from fedjax_mri.study import sweep

SEED = "seed"
DRAWS = 2000  # resamples of a bootstrap, and flips of a test that has too many to try them all
MOST = 12  # rows of panels
COSTS = {"round": "round", "mb": "MB sent and received", "seconds": "simulated seconds"}


class Found(NamedTuple):
    """What a study has measured: C cells at E evaluations, nan where there is none."""

    axes: list[str]  # but for the seed
    where: list[dict[str, Any]]  # [C], values by axis, the seed among them
    costs: dict[str, np.ndarray]  # name of a cost -> [C, E], from the start
    figures: dict[str, np.ndarray]  # name of a figure of merit -> [C, E], higher is better
    synthetic: bool
    base: dict[str, Any]


@matplotlib.rc_context(STYLE)
def write(study: pathlib.Path, target: float | None = None) -> pathlib.Path:
    """Writes the report of a study folder and returns its path. Raises UserError where no cell is finished."""
    found, parts = read(study), list[Part]()
    sweep.write_table(study)
    for name in found.figures:
        parts += [Part(name), Part(table=results(found, name)), *ranked(found, name)]
    main = next(iter(found.figures))
    aim = 0.95 * np.nanmax(last(found.figures[main])) if target is None else target
    parts += [Part(f"What {main} of {aim:.3f} costs", table=reached(found, main, aim))]
    for name, caption, figure in drawings(found, main):
        figure.savefig(study / f"{name}.png", dpi=150)
        parts.append(Part(svg=svg(figure), caption=caption))
    parts = [part._replace(synthetic=found.synthetic) for part in parts]
    settings = Part("Settings", settings=found.base)
    return publish(study / "report.html", names=[study.name], parts=[*parts, settings])


def read(study: pathlib.Path) -> Found:
    """The finished cells of a study."""
    rows, index = sweep.rows(study), runfolder.read_json(study / "study.json")
    if not rows:
        raise UserError(f"{study}: no cell of this study is finished; run `fedjax-mri sweep` again")
    histories = [row["history"] for row in rows]
    names = list(dict.fromkeys(name for name in histories[0][-1] if merit(name)))
    if not names:
        raise UserError(f"{study}: its figures hold no accuracy of a test set to report on")
    return Found(
        [axis for axis in index["axes"] if axis != SEED],
        [row["where"] for row in rows],
        {"round": columns(histories, "round"), **spent(histories)},
        {name: columns(histories, name) for name in names},
        any(row["synthetic"] for row in rows),
        index["base"],
    )


def merit(name: str) -> bool:
    """Whether a figure is what runs are compared by."""
    return name.endswith(("/accuracy", "/ssim")) and not name.startswith("train/")


def columns(histories: Sequence[Sequence[dict[str, float]]], *names: str) -> np.ndarray:
    """The sum of some figures, [C, E]; nan after the end of a history and where there is none."""
    table = np.full((len(histories), max(map(len, histories))), np.nan)
    for cell, history in enumerate(histories):
        table[cell, : len(history)] = [sum(line.get(name, math.nan) for name in names) for line in history]
    return table


def spent(histories: Sequence[Sequence[dict[str, float]]]) -> dict[str, np.ndarray]:
    """Costs from the start to each evaluation, [C, E]; those that are always 0 are left out."""
    each = {
        "mb": columns(histories, "simulated/up_mb", "simulated/down_mb"),
        "seconds": columns(histories, "simulated/seconds"),
    }
    summed = {}
    for name, table in each.items():
        table[:, 0] = np.where(np.isnan(table[:, 0]), 0.0, table[:, 0])  # before the first round
        summed[name] = np.cumsum(table, axis=1)
    return {name: table for name, table in summed.items() if np.nanmax(table) > 0}


def last(table: np.ndarray) -> np.ndarray:
    """The last value of each row [C, E] that is there."""
    there = ~np.isnan(table)
    return table[np.arange(len(table)), table.shape[1] - 1 - there[:, ::-1].argmax(1)]


def variants(found: Found, axes: Sequence[str]) -> dict[tuple[Any, ...], np.ndarray]:
    """Cells [n] by their values on some axes, in the order of the study."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for cell, where in enumerate(found.where):
        groups.setdefault(tuple(where[axis] for axis in axes), []).append(cell)
    return {values: np.array(cells) for values, cells in groups.items()}


# Figures with their uncertainty


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap of the mean of values [n, ...] over their first axis; nan for fewer than two."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, axis=0, n_resamples=DRAWS, method="percentile", rng=rng)
    return found.confidence_interval.low, found.confidence_interval.high


def paired(differences: np.ndarray) -> float:
    """Two-sided p of a mean difference [n] under random signs (Fisher's test for pairs), exact up to 2 ** n = DRAWS."""
    if len(differences) < 2:
        return math.nan
    if 2 ** len(differences) <= DRAWS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
    else:
        drawn = np.random.default_rng(0).choice((1.0, -1.0), (DRAWS - 1, len(differences)))
        signs = np.vstack([np.ones(len(differences)), drawn])
    means = np.abs(signs @ differences)
    return float(np.mean(means >= means[0] * (1 - 1e-9)))


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for the number of tests (Holm 1979)."""
    order, corrected, least = np.argsort(p), list(p), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = least if not math.isnan(p[place]) else math.nan
    return corrected


def results(found: Found, name: str) -> Table:
    """The last figure of each variant, over seeds."""
    values, rows = last(found.figures[name]), []
    for where, cells in variants(found, found.axes).items():
        low, high = interval(values[cells])
        spread = values[cells].std(ddof=1) if len(cells) > 1 else math.nan
        rows.append((*where, len(cells), float(values[cells].mean()), float(low), float(high), float(spread)))
    note = "After the last round. Mean over seeds; 95 % interval of the mean: percentile bootstrap over seeds."
    return Table("Results", (*found.axes, "cells", "mean", "from", "to", "std over seeds"), rows, note)


def ranked(found: Found, name: str) -> list[Part]:
    """The values of the first axis, each against the axis's first value in pairs, best first by their difference."""
    if not found.axes:
        return []
    values, (axis, *others) = last(found.figures[name]), found.axes
    pairs = {value: blocks(found, axis, value, values, [*others, SEED]) for (value,) in variants(found, [axis])}
    if len(pairs) < 2:
        return []
    reference = next(iter(pairs))
    gaps = {value: difference(ours, pairs[reference]) for value, ours in pairs.items()}
    tested = [value for value in pairs if value != reference]
    p = dict(zip(tested, holm([paired(by_seed(gaps[value])) for value in tested])))
    order = sorted(pairs, key=lambda value: -float(by_seed(gaps[value]).mean()) if gaps[value] else math.inf)
    rows = [ranked_row(value, pairs[value], by_seed(gaps[value]), p.get(value, math.nan)) for value in order]
    seeds = max(len(by_seed(gap)) for gap in gaps.values())
    note = (
        f"Difference: to {reference}, at the same seed and the same values of the other axes, mean over the latter; "
        f"95 % bootstrap interval over {seeds} seeds. p: random signs of the seeds' differences, two-sided, Holm's "
        f"correction; of {seeds} seeds no p is below {2.0 ** (1 - seeds):.2g} before it."
    )
    return [
        Part(table=Table(f"Ranking by {axis}", (axis, "cells", "mean", "difference", "from", "to", "p"), rows, note))
    ]


def ranked_row(value: Any, ours: "Blocks", gaps: np.ndarray, p: float) -> tuple[Any, ...]:
    """A value, how it does, and by how much it differs from the first, [seeds]."""
    mean, (low, high) = float(np.mean(list(ours.values()))), interval(gaps)
    return value, len(ours), mean, float(gaps.mean()) if gaps.size else math.nan, float(low), float(high), p


Blocks = dict[tuple[Any, ...], float]  # values on the other axes, the seed last -> figure


def blocks(found: Found, axis: str, value: Any, values: np.ndarray, others: Sequence[str]) -> Blocks:
    """The figure of each cell with that value on the axis."""
    places = (cell for cell, where in enumerate(found.where) if where[axis] == value)
    return {tuple(found.where[cell].get(other) for other in others): float(values[cell]) for cell in places}


def difference(ours: Blocks, theirs: Blocks) -> Blocks:
    """Where both have one."""
    return {block: ours[block] - theirs[block] for block in ours if block in theirs}


def by_seed(gaps: Blocks) -> np.ndarray:
    """The mean gap of each seed, [seeds]."""
    seeds = dict.fromkeys(block[-1] for block in gaps)
    return np.array([np.mean([gap for block, gap in gaps.items() if block[-1] == seed]) for seed in seeds])


def reached(found: Found, name: str, aim: float) -> Table:
    """What each variant has spent at the first evaluation at which it was as good as the aim, median over seeds."""
    there = found.figures[name] >= aim
    ever, when = np.asarray(there.any(1)), there.argmax(1)
    rows = []
    for where, cells in variants(found, found.axes).items():
        costs = [np.where(ever, table[np.arange(len(table)), when], np.inf)[cells] for table in found.costs.values()]
        medians = [float(np.median(cost)) for cost in costs]
        rows.append((*where, f"{ever[cells].sum()} of {len(cells)}", *("–" if math.isinf(m) else m for m in medians)))
    note = "Median over seeds, those that never reached it counted as slowest; a dash: half of them or more never did."
    return Table("Costs to the target", (*found.axes, "reached", *(COSTS[name] for name in found.costs)), rows, note)


# Figures


def drawings(found: Found, name: str) -> list[tuple[str, str, Figure]]:
    """File name, caption and figure: curves, then a map for each two axes."""
    caption = f"{name} against what it costs: mean over seeds, and the 95 % bootstrap interval of the mean."
    figures = [("curves", caption, curves(found, name))]
    for first, second in itertools.combinations(found.axes[:3], 2):
        if min(len(variants(found, [axis])) for axis in (first, second)) > 1:
            caption = f"{name} after the last round by {first} and {second}: mean over seeds and all other axes."
            figures.append((f"map-{len(figures)}", caption, heat_map(found, name, first, second)))
    return figures


def curves(found: Found, name: str) -> Figure:
    """A column for each cost; a row for each value of the axes behind the first, whose values are the lines."""
    rows = list(variants(found, found.axes[1:]).items())[:MOST]
    figure = Figure(figsize=(WIDE, 0.6 + 2.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(found.costs), squeeze=False, sharey=True, sharex="col")
    lines = [value for (value,) in variants(found, found.axes[:1])] if found.axes else [""]
    colours = dict(zip(lines, distinct(len(lines))))
    for row, (where, cells) in zip(axes, rows):
        for ax, cost in zip(row, found.costs):
            for value, colour in colours.items():
                mine = [cell for cell in cells if not found.axes or found.where[cell][found.axes[0]] == value]
                if mine:
                    line(ax, found.costs[cost][mine], found.figures[name][mine], colour, str(value))
        row[0].set_title(", ".join(f"{axis} {value}" for axis, value in zip(found.axes[1:], where)))
        row[0].set_ylabel(name)
    for ax, cost in zip(axes[-1], found.costs):
        ax.set_xlabel(COSTS[cost])
    if found.axes:
        axes[0, -1].legend(title=found.axes[0], loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def line(ax: Axes, costs: np.ndarray, values: np.ndarray, colour: Any, label: str) -> None:
    """The mean of values [n, E] over their mean costs [n, E], with its interval."""
    whole = np.flatnonzero(~np.isnan(values + costs).any(0))
    x, (low, high) = costs[:, whole].mean(0), interval(values[:, whole])
    ax.plot(x, values[:, whole].mean(0), color=colour, label=label)
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def heat_map(found: Found, name: str, first: str, second: str) -> Figure:
    """Means by two axes, in numbers too."""
    values, cells = last(found.figures[name]), variants(found, [first, second])
    down, across = ([value for (value,) in variants(found, [axis])] for axis in (first, second))
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
