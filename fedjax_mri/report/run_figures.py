"""The figures of a run that classifies: curves over rounds, clients, reliability and the partition."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_mri.metrics import classification
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.metrics.fairness import spread
from fedjax_mri.report.figures import COLOURS, INK, RED, STYLE, WIDE, distinct, panels
from fedjax_mri.report.page import number
from fedjax_mri.run.line import TRAIN, Figures, LogEntry
from fedjax_mri.run.record import RunRecord


def curves(runs: Sequence[RunRecord]) -> Figure:
    """Draws loss and accuracy against rounds: one run's test sets together, several runs' side by side."""
    tests = list(dict.fromkeys(name for run in runs for name in run.tests))
    if len(runs) == 1:
        titles = {"Negative log likelihood": "nll", "Accuracy": "accuracy"}
        groups = (TRAIN, *tests)
        shown = {title: [(runs[0], name, figure, name) for name in groups] for title, figure in titles.items()}
    else:
        shown = {"Training loss": [(run, TRAIN, "nll", run.name) for run in runs]}
        shown |= {f"Accuracy, {name}": [(run, name, "accuracy", run.name) for run in runs] for name in tests}
    figure, axes = panels(len(shown), WIDE, 2.9)
    for ax, (title, lines) in zip(axes, shown.items()):
        for run, group, name, label in lines:
            plot_history(ax, run.history, group, name, label)
        ax.set(title=title, xlabel="round")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax.get_legend_handles_labels()[1]:
            ax.legend()
    return figure


@matplotlib.rc_context(STYLE)
def histories(runs: Mapping[str, tuple[Sequence[LogEntry], Sequence[str]]]) -> Figure:
    """Draws the curves of runs of any task, finished or not.

    `runs` has by name their evaluations and the figures that count.
    """
    shown: dict[str, list[tuple[str, str, str]]] = {}
    for name, (history, merits) in runs.items():
        for merit in merits:
            for test in dict.fromkeys(test for line in history for test in line.tests):
                shown.setdefault(merit, []).append((name, test, test if len(runs) == 1 else f"{name}, {test}"))
    figure, axes = panels(max(1, len(shown)), WIDE, 2.9)
    for ax, (title, lines) in zip(axes, shown.items()):
        for name, test, label in lines:
            plot_history(ax, runs[name][0], test, title, label)
        ax.set(title=title, xlabel="round")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax.get_legend_handles_labels()[1]:
            ax.legend(fontsize=7)
    return figure


def plot_history(ax: Axes, history: Sequence[LogEntry], group: str, figure: str, label: str) -> None:
    """Plots a figure of the training or of a test set against rounds, where it is known."""
    points = [(line.round, found[figure]) for line in history if figure in (found := figures_of(line, group))]
    if points:
        ax.plot(*zip(*points), label=label, marker="o" if len(points) < 30 else "", markersize=2.5)


def figures_of(line: LogEntry, group: str) -> Figures:
    """Returns the task's figures of the training or of a test set at one evaluation; none where there are none."""
    if group == TRAIN:
        return line.training.figures if line.training else {}
    return line.tests[group].pooled if group in line.tests else {}


def client_dots(tally: Tally) -> Figure:
    """Draws the accuracy of each client with its 95 % interval, the best on top."""
    accuracy, (low, high) = np.asarray(classification.accuracy(tally)), classification.interval(tally)
    order = np.argsort(accuracy, stable=True)
    figure, (ax,) = panels(1, WIDE, 0.9 + 0.2 * len(order))
    ax.hlines(np.arange(len(order)), np.asarray(low)[order], np.asarray(high)[order], color=COLOURS[0], alpha=0.45)
    ax.plot(accuracy[order], np.arange(len(order)), "o", color=COLOURS[0], markersize=4.5)
    ax.set_yticks(range(len(order)), [f"client {i} (n = {tally.weight[i]:,.0f})" for i in order])
    ax.set(title="Accuracy by client", xlabel="accuracy, 95 % interval", ylim=(-0.7, len(order) - 0.3))
    ax.grid(False, axis="y")
    return figure


def client_histogram(tally: Tally) -> Figure:
    """Draws a histogram of the clients' accuracies, and their accuracy against their size."""
    accuracy, weight = np.asarray(classification.accuracy(tally)), np.asarray(tally.weight)
    figures = spread(accuracy, weight)
    figure, (left, right) = panels(2, WIDE, 2.9)
    left.hist(accuracy[weight > 0], bins=20, color=COLOURS[0], alpha=0.75)
    for name, colour, style in (("mean", INK, "-"), ("worst decile", RED, "--")):
        left.axvline(figures[name], color=colour, linestyle=style, label=f"{name} {number(figures[name])}")
    left.set(title="Clients by accuracy", xlabel="accuracy", ylabel="clients")
    left.legend()
    right.scatter(weight, accuracy, s=9, alpha=0.35, linewidths=0, color=COLOURS[0], rasterized=True)
    right.set(title="Accuracy against size", xlabel="test examples of the client", ylabel="accuracy")
    use_log_scale(right, weight)
    return figure


def use_log_scale(ax: Axes, sizes: np.ndarray) -> None:
    """Makes the x axis logarithmic where sizes differ by more than an order of magnitude."""
    if (sizes > 0).any() and sizes.max() > 10 * sizes[sizes > 0].min():
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_formatter("")


def reliability(tally: Tally) -> Figure:
    """Draws the accuracy against the confidence, and the share of examples at each confidence."""
    share, confidence, correct = (np.asarray(x) for x in classification.calibration(classification.pool(tally)))
    edges = np.linspace(0, 1, len(share) + 1)
    figure, (ax,) = panels(1, WIDE / 2, 3.3)
    ax.bar(edges[:-1], share, np.diff(edges), align="edge", color="#cccccc", alpha=0.7, label="share of examples")
    ax.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1)
    ax.plot(confidence, correct, "o-", color=COLOURS[0], markersize=4, label="accuracy")
    ax.set(title="Reliability", xlabel="confidence", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend()
    return figure


def partition_bars(run: RunRecord) -> Figure:
    """Draws the training examples of each client by class, as stacked bars."""
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


def partition_overview(run: RunRecord) -> Figure:
    """Draws a histogram of the clients' sizes, and a column of class shares for each client."""
    figure, (left, right) = panels(2, WIDE, 2.9, width_ratios=(1, 1.6))
    sizes = run.labels.sum(1)
    use_log_scale(left, sizes)
    edges = (np.geomspace if left.get_xscale() == "log" else np.linspace)(max(sizes.min(), 1), sizes.max() + 1, 31)
    left.hist(sizes, bins=edges.tolist(), color=COLOURS[0], alpha=0.75)
    left.set(title="Clients by size", xlabel="training examples", ylabel="clients")
    right.imshow(class_shares(run.labels), aspect="auto", extent=(0, len(sizes), 0, 1), interpolation="nearest")
    right.set(title="Class shares of each client", xlabel="clients, by largest class and its share", ylabel="share")
    right.grid(False)
    for name, colour in zip(run.classes, distinct(len(run.classes))):
        right.plot([], [], "s", color=colour, label=name)
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def class_shares(labels: np.ndarray, height: int = 120) -> np.ndarray:
    """Returns an image [height, N, 3] whose columns are the clients' class shares, stacked from below.

    labels [N, C].
    """
    shares = labels / np.maximum(labels.sum(1, keepdims=True), 1)
    shares = shares[np.lexsort((-shares.max(1), shares.argmax(1)))]
    level = (np.arange(height)[::-1, None, None] + 0.5) / height
    found = (np.cumsum(shares, 1) < level).sum(-1)
    return np.vstack([distinct(labels.shape[1]), [[1, 1, 1]]])[found]  # white: a client without examples
