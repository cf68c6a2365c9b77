"""The tables of a run that classifies."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_mri.data.contract import Table
from fedjax_mri.metrics import classification
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.metrics.fairness import spread
from fedjax_mri.report.page import number
from fedjax_mri.run.line import PRIVACY, TRAIN, Figures, LogEntry, SegmentFigures, full_name
from fedjax_mri.run.record import RunRecord, TestResult


def headline(runs: Sequence[RunRecord]) -> Table:
    """Returns a table of the figures that a paper gives, in a row for each run and test set."""
    which, merit = ("run", "test set", "examples", "clients"), ("precision", "recall", "F1", "AUC", "ECE", "NLL")
    rows = [headline_row(run, name, result) for run in runs for name, result in run.tests.items()]
    note = (
        "Wilson interval, examples taken as independent. Precision, recall and F1: macro averages over the classes "
        "that occur. AUC: mean of one against the rest. ECE: 15 bins. NLL in nats."
    )
    return Table("Results", (*which, "accuracy", "95 % interval", *merit), rows, note)


def headline_row(run: RunRecord, name: str, result: TestResult) -> tuple[Any, ...]:
    """Returns the cells of one run and test set."""
    pooled = classification.pool(result.tally)
    low, high = (float(end) for end in classification.interval(pooled))
    figures = classification.summary(pooled)
    auc = classification.macro_auc(result.probabilities, result.labels)
    clients = int((np.asarray(result.tally.weight) > 0).sum())
    accuracy, precision, recall, f1 = (figures[key] for key in ("accuracy", "precision", "recall", "f1"))
    size, interval = int(pooled.weight), f"{number(low)}–{number(high)}"
    row = (accuracy, interval, precision, recall, f1, auc, figures["ece"], figures["nll"])
    return run.name, name, size, clients, *row


def accuracy_spread(tally: Tally) -> Table:
    """Returns a table of how evenly the accuracy is spread over the clients of a test set."""
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


def by_class(classes: tuple[str, ...], result: TestResult) -> Table:
    """Returns a table of the figures of each class against the others."""
    pooled = classification.pool(result.tally)
    measures = (classification.precision, classification.recall, classification.specificity, classification.f1)
    figures = np.stack([np.asarray(measure(pooled)) for measure in measures], 1)
    examples = np.asarray(pooled.confusion).sum(1)
    auc = classification.class_auc(result.probabilities, result.labels)
    rows = [(name, int(n), *row, area) for name, n, row, area in zip(classes, examples, figures.tolist(), auc.tolist())]
    return Table("By class", ("class", "examples", "precision", "recall", "specificity", "F1", "AUC"), rows)


def confusion(tally: Tally) -> list[list[tuple[int, float]]]:
    """Returns the count of examples by truth (row) and prediction (column), and its share of the row."""
    counts = np.asarray(tally.confusion).sum(0)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return [[(int(count), float(share)) for count, share in zip(*row)] for row in zip(counts, shares)]


def partition(run: RunRecord) -> Table:
    """Returns a table of how many training examples of each class each client has."""
    rows: list[tuple[Any, ...]] = [(f"client {i}", *map(int, row), int(row.sum())) for i, row in enumerate(run.labels)]
    rows.append(("all", *map(int, run.labels.sum(0)), int(run.labels.sum())))
    return Table("Training examples by client and class", ("client", *run.classes, "all"), rows)


def partition_quantiles(run: RunRecord) -> Table:
    """Returns a table of how the sizes and class shares of many training clients are distributed."""
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


def left_out(run: RunRecord, count: int = 10) -> list[Table]:
    """Returns a table of the clients that the server's rule left out most often, and of all that attack.

    It has `count` clients at most, besides those that attack. There is no table if the rule does not say.
    """
    if run.selection is None:
        return []
    rounds, times, attacks = run.selection
    shares = times / np.maximum(rounds, 1)
    order = np.argsort(-shares, kind="stable")
    shown = [k for place, k in enumerate(order) if rounds[k] and (place < count or attacks[k])]
    rows = [(f"site {k}", int(times[k]), int(rounds[k]), float(shares[k]), "yes" if attacks[k] else "") for k in shown]
    note = "A round in which the rule took nothing of a site's update; the sites left out most often."
    return [
        Table("Left out by the server's rule", ("site", "left out in", "of rounds", "share", "attacks"), rows, note)
    ]


def attack_sentence(run: RunRecord) -> str:
    """Returns a sentence on who attacked and how often the rule kept an attacker's update; empty without an attack."""
    totals = Counter[str]()
    for line in run.history:
        totals.update(line.training.uplink if line.training else {})
    if "attack/sent" not in totals:
        return ""
    name = run.config["attack"]["class"].rpartition(".")[2]
    sent = f" Attack: {name}, {totals['attack/sent']:,.0f} updates of attackers"
    kept = totals.get("attack/kept")
    return f"{sent}." if kept is None else f"{sent}, of which the rule kept {kept:,.0f}."


def timings(run: RunRecord) -> Table:
    """Returns a table of the seconds by kind of work, and of how fast training was."""
    rows: list[tuple[Any, ...]] = [(f"{name}, seconds", seconds) for name, seconds in run.timings.items()]
    for name in ("clients_per_second", "images_per_second", "useful_share"):
        each = [getattr(line.training, name) for line in run.history if line.training]
        known = [value for value in each if value is not None]
        rows += [(name.replace("_", " "), float(np.median(known)))] if known else []
    note = "Rates: median over segments. Useful share: steps taken on examples, of all steps that the lanes took."
    return Table("Time and throughput", ("", "value"), rows, note)


def history(run: RunRecord) -> Table:
    """Returns a table with a row for each evaluation, of what is looked at first."""
    lines = [history_row(line) for line in run.history]
    columns = tuple(dict.fromkeys(name for line in lines for name in line))
    rows = [tuple(line.get(name, math.nan) for name in columns) for line in lines]
    return Table("History", tuple(column.replace("_", " ") for column in columns), rows, "Everything: metrics.jsonl.")


def history_row(line: LogEntry) -> dict[str, float]:
    """Returns what the table of the history says of an evaluation, by name.

    It is round, accuracy and loss of training and test sets, seconds and useful share.
    """
    training = line.training or SegmentFigures({})
    rates = {"seconds": training.seconds, "useful_share": training.useful_share}
    found: dict[str, float] = {"round": line.round}
    found |= accuracy_and_loss(TRAIN, training.figures)
    found |= {name: value for name, value in rates.items() if value is not None}
    found |= {full_name(PRIVACY, name): value for name, value in line.privacy.items()}
    for name, test in line.tests.items():
        found |= accuracy_and_loss(name, test.pooled)
    return found


def accuracy_and_loss(group: str, figures: Figures) -> dict[str, float]:
    """Returns the accuracy and loss among the figures of the training or of a test set, by their full names."""
    return {full_name(group, name): figures[name] for name in figures if name in ("accuracy", "nll")}
