"""The figures of a finished run site by site and group by group: who is served worse than whom."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.metrics import classification, fairness
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.run import results

FIGURES = ("accuracy", "sensitivity", "calibration")  # 1 is best
SITE = "site"  # the grouping in which every site is a group of its own


class Row(NamedTuple):
    """A site, or a group of sites, on one test set."""

    test: str
    grouping: str  # "site", "size", "dominant label", ...
    name: str
    sites: int  # of them with test examples
    examples: int
    accuracy: float
    low: float  # 95 % interval of the accuracy, examples taken as independent
    high: float
    sensitivity: float  # macro average of `recall`
    calibration: float  # 1 - expected calibration error
    recall: tuple[float, ...]  # sensitivity to each class [C]; nan for one that does not occur


def audit(run: pathlib.Path) -> list[Row]:
    """Returns the figures of each site and group on each test set of a run.

    Raises UserError where it has not finished.
    """
    record = results.load(run)
    groups = {**groupings(record.labels, record.classes), **record.groups}
    found = list[Row]()
    for name, test in record.tests.items():
        if test.owner is None:
            raise UserError(f"{run}: does not say whose its test sets are; run `fedjax-mri train` again to finish it")
        found += rows_of_test(name, test.tally, test.owner, groups)
    return found


def groupings(labels: np.ndarray, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns groupings of training sites by size and most frequent class.

    They are names str [N], from the sites' examples int [N, C].
    """
    sizes = labels.sum(1)
    quartile = np.searchsorted(np.percentile(sizes, (25, 50, 75)), sizes)
    names = np.array(["1st quarter, smallest", "2nd quarter", "3rd quarter", "4th quarter, largest"])
    return {"size": names[quartile], "dominant label": np.asarray(classes)[labels.argmax(1)]}


def rows_of_test(test: str, tally: Tally, owner: np.ndarray, groups: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """Yields rows of one test set: its M sites, then the groups that their training sites, `owner` int [M], are in."""
    labels = [f"site {k}" if k >= 0 else f"unseen site {m}" for m, k in enumerate(owner)]
    yield from rows(test, SITE, labels, tally, np.ones(len(owner), int))
    if (owner < 0).all():
        return
    for grouping, group in groups.items():
        names, group_of = np.unique(group, return_inverse=True)
        member = np.where(owner < 0, -1, group_of[owner])
        sites = np.bincount(member[(member >= 0) & (tally.weight > 0)], minlength=len(names))
        yield from rows(test, grouping, names.tolist(), trees.sum_by(tally, member, len(names)), sites)


def rows(test: str, grouping: str, names: Sequence[str], tally: Tally, sites: np.ndarray) -> Iterator[Row]:
    """Yields a row for each of G tallies that holds an example.

    `sites` int [G] says of how many sites each is the sum.
    """
    recall = classification.recall(tally)
    low, high = classification.interval(tally)
    sensitivity, calibration = classification.macro(recall), 1 - classification.ece(tally)
    columns = np.stack([classification.accuracy(tally), low, high, sensitivity, calibration], 1)
    for name, count, weight, figures, each in zip(names, sites, tally.weight, columns, np.asarray(recall)):
        if weight > 0:
            yield Row._make((test, grouping, name, int(count), int(weight), *figures.tolist(), tuple(each.tolist())))


def spreads(found: Sequence[Row]) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Yields test set, grouping, figure, and its `fairness.spread` over the groups, each of which counts the same."""
    for test, grouping in dict.fromkeys((row.test, row.grouping) for row in found):
        mine = [row for row in found if (row.test, row.grouping) == (test, grouping)]
        for figure in FIGURES:
            values = np.array([getattr(row, figure) for row in mine])
            yield test, grouping, figure, fairness.spread(values, np.ones(len(values)))
