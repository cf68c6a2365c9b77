"""The report at the end of a run: one HTML file with every figure and table in it, fit for a paper's supplement.

`write` turns finished runs into the file; all figures of merit come from `metrics`. The page itself is `report.html`.
"""

import importlib.resources
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_mri.data.contract import Table
from fedjax_mri.metrics import classification
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.metrics.fairness import spread
from fedjax_mri.report import explanations, translation
from fedjax_mri.report.figures import COLOURS, INK, RED, STYLE, WIDE, distinct, panels, png, svg
from fedjax_mri.run.record import RunRecord, TestResult

FEW = 24  # clients that are shown one by one; more are shown as a distribution
LONGEST = 200  # rows of a table, at most


@matplotlib.rc_context(STYLE)
def write(runs: Sequence[RunRecord], path: Path) -> Path:
    """Writes the report of one or more runs to `path`, whole or not at all, and returns it."""
    return publish(
        path,
        names=[run.name for run in runs],
        warnings=[(run.name, line) for run in runs for line in run.warnings],
        comparison=_comparison(runs) if len(runs) > 1 else None,
        runs=[_section(run) for run in runs],
    )


def publish(path: Path, **content: Any) -> Path:
    """Writes the page of that content to `path`, whole or not at all, and returns it."""
    empty: dict[str, Any] = {"warnings": [], "comparison": None, "runs": [], "parts": [], "maker": "fedjax-mri report"}
    return _replace(Path(path), _template().render(**(empty | content)))


@matplotlib.rc_context(STYLE)
def save_figure(runs: Sequence[RunRecord], path: Path) -> Path:
    """Saves the curves of the runs as PNG, SVG or PDF, by the suffix of `path`."""
    _curves(runs).savefig(path, dpi=200, bbox_inches="tight")
    return Path(path)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "numeric": _numeric, "indented": lambda tree: list(_indented(tree))}
    environment.globals |= {"LONGEST": LONGEST}
    return environment.from_string(importlib.resources.files(__package__).joinpath("report.html").read_text("utf-8"))


def _replace(path: Path, page: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(page, encoding="utf-8")
    return draft.replace(path)


def _comparison(runs: Sequence[RunRecord]) -> dict[str, Any]:
    judged = [run for run in runs if run.tests]
    return {
        "headline": _headline(judged) if judged else None,
        "curves": svg(_curves(judged)) if judged else None,
        "parts": translation.compared([run for run in runs if run.kept]),
        "synthetic": any(run.synthetic for run in runs),
    }


def _section(run: RunRecord) -> dict[str, Any]:
    """What the page needs of one run, in its order."""
    few = len(run.labels) <= FEW
    return {
        "run": run,
        "summary": _summary(run),
        "headline": _headline([run]) if run.tests else None,
        "curves": svg(_curves([run])) if run.tests else None,
        "parts": translation.parts([run]) if run.kept else [],
        "explained": explanations.parts(run),
        "tests": [_test(run, name, result) for name, result in run.tests.items()],
        "partition": svg(_partition_bars(run) if few else _partition_overview(run)),
        "shares": _partition_table(run) if few else _partition_quantiles(run),
        "timings": _timings(run),
        "history": _history(run),
    }


def _test(run: RunRecord, name: str, result: TestResult) -> dict[str, Any]:
    clients = len(result.tally.weight)
    return {
        "name": name,
        "spread": _spread(result.tally),
        "clients": svg(_client_dots(result.tally) if clients <= FEW else _client_distribution(result.tally)),
        "confusion": _confusion(result.tally),
        "classes": _class_table(run.classes, result),
        "reliability": svg(_reliability(result.tally)),
        "samples": [_sample(run.classes, *fields) for fields in zip(*result[-3:])],
    }


def _summary(run: RunRecord) -> str:
    rounds = f", {run.history[-1]['round']:,.0f} rounds" if run.history else ""
    clients, classes = run.labels.shape
    return f"{clients:,} training clients, {int(run.labels.sum()):,} examples, {classes} classes{rounds}."


# Tables


def _headline(runs: Sequence[RunRecord]) -> Table:
    which, merit = ("run", "test set", "examples", "clients"), ("precision", "recall", "F1", "AUC", "ECE", "NLL")
    rows = [_headline_row(run, name, result) for run in runs for name, result in run.tests.items()]
    note = (
        "Wilson interval, examples taken as independent. Precision, recall and F1: macro averages over the classes "
        "that occur. AUC: mean of one against the rest. ECE: 15 bins. NLL in nats."
    )
    return Table("Results", (*which, "accuracy", "95 % interval", *merit), rows, note)


def _headline_row(run: RunRecord, name: str, result: TestResult) -> tuple[Any, ...]:
    pooled = classification.pool(result.tally)
    low, high = (float(end) for end in classification.interval(pooled))
    figures = classification.summary(pooled)
    auc = classification.macro_auc(result.probabilities, result.labels)
    clients = int((np.asarray(result.tally.weight) > 0).sum())
    accuracy, precision, recall, f1 = (figures[key] for key in ("accuracy", "precision", "recall", "f1"))
    size, interval = int(pooled.weight), f"{_number(low)}–{_number(high)}"
    row = (accuracy, interval, precision, recall, f1, auc, figures["ece"], figures["nll"])
    return run.name, name, size, clients, *row


def _spread(tally: Tally) -> Table:
    figures = spread(np.asarray(classification.accuracy(tally)), np.asarray(tally.weight))
    meanings = {
        "empty": "clients without examples, left out",
        "mean": "every client counts the same",
        "pooled": "every example counts the same",
        "std": "standard deviation over clients",
        "worst decile": "mean of the worst tenth",
        "gap": "best less worst",
        "jain": "Jain's fairness index, 1 when all are equal",
    }
    rows = [(name, value, meanings.get(name, "")) for name, value in figures.items()]
    return Table("Accuracy over clients", ("", "value", ""), rows)


def _class_table(classes: tuple[str, ...], result: TestResult) -> Table:
    pooled = classification.pool(result.tally)
    measures = (
        classification.precision,
        classification.recall,
        classification.specificity,
        classification.f1,
    )
    figures = np.stack([np.asarray(measure(pooled)) for measure in measures], 1)
    examples = np.asarray(pooled.confusion).sum(1)
    auc = classification.class_auc(result.probabilities, result.labels)
    rows = [(name, int(n), *row, area) for name, n, row, area in zip(classes, examples, figures.tolist(), auc.tolist())]
    return Table("By class", ("class", "examples", "precision", "recall", "specificity", "F1", "AUC"), rows)


def _confusion(tally: Tally) -> list[list[tuple[int, float]]]:
    """Count and share of its row, by truth and prediction."""
    counts = np.asarray(tally.confusion).sum(0)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return [[(int(count), float(share)) for count, share in zip(*row)] for row in zip(counts, shares)]


def _partition_table(run: RunRecord) -> Table:
    rows: list[tuple[Any, ...]] = [(f"client {i}", *map(int, row), int(row.sum())) for i, row in enumerate(run.labels)]
    rows.append(("all", *map(int, run.labels.sum(0)), int(run.labels.sum())))
    return Table("Training examples by client and class", ("client", *run.classes, "all"), rows)


def _partition_quantiles(run: RunRecord) -> Table:
    sizes = run.labels.sum(1)
    measures = {
        "examples": sizes,
        "classes present": (run.labels > 0).sum(1),
        "share of the largest class": run.labels.max(1) / np.maximum(sizes, 1),
    }
    levels = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
    rows = [
        (name, *np.quantile(values, list(levels.values()), method="nearest").tolist())
        for name, values in measures.items()
    ]
    return Table("Training clients", ("per client", *levels), rows)


def _timings(run: RunRecord) -> Table:
    rows: list[tuple[Any, ...]] = [(f"{name}, seconds", seconds) for name, seconds in run.timings.items()]
    for key in ("clients_per_second", "images_per_second", "useful_share"):
        values = [segment[key] for segment in run.history if key in segment]
        rows += [(key.replace("_", " "), float(np.median(values)))] if values else []
    note = "Rates: median over segments. Useful share: steps taken on examples, of all steps that the lanes took."
    return Table("Time and throughput", ("", "value"), rows, note)


def _history(run: RunRecord) -> Table:
    shown = re.compile("round|seconds|useful_share|.*/(accuracy|nll)")
    columns = tuple(dict.fromkeys(key for segment in run.history for key in segment if shown.fullmatch(key)))
    rows = [tuple(segment.get(key, math.nan) for key in columns) for segment in run.history]
    return Table("History", tuple(column.replace("_", " ") for column in columns), rows, "Everything: metrics.jsonl.")


def _number(value: Any) -> str:
    """Whole numbers whole, shares with three digits, large numbers with fewer; a dash for nan."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 10):
        return f"{value:,.0f}"
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def _numeric(rows: Sequence[Sequence[Any]], column: int) -> bool:
    """Whether a column is to be aligned as numbers."""
    return all(re.fullmatch(r"[-\d.,–% ]+|inf", _number(row[column])) for row in rows)


def _indented(tree: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, str, Any]]:
    """Depth, name and value of every entry of a nested dict; a branch has the value ''."""
    for name, value in tree.items():
        branch = isinstance(value, dict) and bool(value)
        yield depth, str(name), "" if branch else value
        if branch:
            yield from _indented(value, depth + 1)


# Figures


def _curves(runs: Sequence[RunRecord]) -> Figure:
    """Loss and accuracy against rounds: one run's test sets together, several runs' side by side."""
    tests = list(dict.fromkeys(name for run in runs for name in run.tests))
    if len(runs) == 1:
        shown = {
            "Negative log likelihood": [(runs[0], f"{name}/nll", name) for name in ("train", *tests)],
            "Accuracy": [(runs[0], f"{name}/accuracy", name) for name in ("train", *tests)],
        }
    else:
        shown = {"Training loss": [(run, "train/nll", run.name) for run in runs]}
        shown |= {f"Accuracy, {name}": [(run, f"{name}/accuracy", run.name) for run in runs] for name in tests}
    figure, axes = panels(len(shown), WIDE, 2.9)
    for ax, (title, lines) in zip(axes, shown.items()):
        _lines(ax, title, lines)
    return figure


def _lines(ax: Axes, title: str, lines: list[tuple[RunRecord, str, str]]) -> None:
    for run, key, label in lines:
        points = [(segment["round"], segment[key]) for segment in run.history if key in segment]
        if points:
            ax.plot(*zip(*points), label=label, marker="o" if len(points) < 30 else "", markersize=2.5)
    ax.set(title=title, xlabel="round")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ax.get_legend_handles_labels()[1]:
        ax.legend()


def _client_dots(tally: Tally) -> Figure:
    """Accuracy of each client with its 95 % interval, the best on top."""
    accuracy, (low, high) = np.asarray(classification.accuracy(tally)), classification.interval(tally)
    order = np.argsort(accuracy, stable=True)
    figure, (ax,) = panels(1, WIDE, 0.9 + 0.2 * len(order))
    ax.hlines(np.arange(len(order)), np.asarray(low)[order], np.asarray(high)[order], color=COLOURS[0], alpha=0.45)
    ax.plot(accuracy[order], np.arange(len(order)), "o", color=COLOURS[0], markersize=4.5)
    ax.set_yticks(range(len(order)), [f"client {i} (n = {tally.weight[i]:,.0f})" for i in order])
    ax.set(title="Accuracy by client", xlabel="accuracy, 95 % interval", ylim=(-0.7, len(order) - 0.3))
    ax.grid(False, axis="y")
    return figure


def _client_distribution(tally: Tally) -> Figure:
    """Histogram of the clients' accuracies, and accuracy against size."""
    accuracy, weight = np.asarray(classification.accuracy(tally)), np.asarray(tally.weight)
    figures = spread(accuracy, weight)
    figure, (left, right) = panels(2, WIDE, 2.9)
    left.hist(accuracy[weight > 0], bins=20, color=COLOURS[0], alpha=0.75)
    for name, colour, style in (("mean", INK, "-"), ("worst decile", RED, "--")):
        left.axvline(figures[name], color=colour, linestyle=style, label=f"{name} {_number(figures[name])}")
    left.set(title="Clients by accuracy", xlabel="accuracy", ylabel="clients")
    left.legend()
    right.scatter(weight, accuracy, s=9, alpha=0.35, linewidths=0, color=COLOURS[0], rasterized=True)
    right.set(title="Accuracy against size", xlabel="test examples of the client", ylabel="accuracy")
    _stretch(right, weight)
    return figure


def _stretch(ax: Axes, sizes: np.ndarray) -> None:
    """A logarithmic axis where sizes differ by more than an order of magnitude."""
    if (sizes > 0).any() and sizes.max() > 10 * sizes[sizes > 0].min():
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_formatter("")


def _reliability(tally: Tally) -> Figure:
    """Accuracy against confidence, and the share of examples at each confidence."""
    share, confidence, correct = (np.asarray(x) for x in classification.calibration(classification.pool(tally)))
    edges = np.linspace(0, 1, len(share) + 1)
    figure, (ax,) = panels(1, WIDE / 2, 3.3)
    ax.bar(edges[:-1], share, np.diff(edges), align="edge", color="#cccccc", alpha=0.7, label="share of examples")
    ax.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1)
    ax.plot(confidence, correct, "o-", color=COLOURS[0], markersize=4, label="accuracy")
    ax.set(title="Reliability", xlabel="confidence", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend()
    return figure


def _partition_bars(run: RunRecord) -> Figure:
    """A stacked bar per client."""
    clients, ends = np.arange(len(run.labels)), np.cumsum(run.labels, 1)
    figure, (ax,) = panels(1, WIDE, 1.1 + 0.22 * len(clients))
    for c, (name, colour) in enumerate(zip(run.classes, distinct(len(run.classes)))):
        ax.barh(clients, run.labels[:, c], left=ends[:, c] - run.labels[:, c], color=colour, label=name, height=0.72)
    ax.set_yticks(clients, [f"client {i}" for i in clients])
    ax.set(title="Training examples by client and class", xlabel="examples")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _partition_overview(run: RunRecord) -> Figure:
    """Histogram of the clients' sizes, and a column of class shares for each client."""
    figure, (left, right) = panels(2, WIDE, 2.9, width_ratios=(1, 1.6))
    sizes = run.labels.sum(1)
    _stretch(left, sizes)
    edges = (np.geomspace if left.get_xscale() == "log" else np.linspace)(max(sizes.min(), 1), sizes.max() + 1, 31)
    left.hist(sizes, bins=edges.tolist(), color=COLOURS[0], alpha=0.75)
    left.set(title="Clients by size", xlabel="training examples", ylabel="clients")
    right.imshow(_strip(run.labels), aspect="auto", extent=(0, len(sizes), 0, 1), interpolation="nearest")
    right.set(title="Class shares of each client", xlabel="clients, by largest class and its share", ylabel="share")
    right.grid(False)
    for name, colour in zip(run.classes, distinct(len(run.classes))):
        right.plot([], [], "s", color=colour, label=name)
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _strip(labels: np.ndarray, height: int = 120) -> np.ndarray:
    """An image [height, N, 3] whose columns are the clients' class shares, stacked from below; labels [N, C]."""
    shares = labels / np.maximum(labels.sum(1, keepdims=True), 1)
    shares = shares[np.lexsort((-shares.max(1), shares.argmax(1)))]
    level = (np.arange(height)[::-1, None, None] + 0.5) / height
    found = (np.cumsum(shares, 1) < level).sum(-1)
    return np.vstack([distinct(labels.shape[1]), [[1, 1, 1]]])[found]  # white: a client without examples


def _sample(classes: tuple[str, ...], image: np.ndarray, label: int, probabilities: np.ndarray) -> dict[str, Any]:
    guess = int(np.argmax(probabilities))
    return {
        "image": png(image),
        "prediction": classes[guess],
        "confidence": float(probabilities[guess]),
        "truth": classes[int(label)],
    }
