"""One entry of a run's log in memory, and the flat names under which metrics.jsonl holds its figures.

A line of metrics.jsonl is one flat dict, because users, TensorBoard and `early.figure` name figures by one string:
"train/nll", "simulated/up_mb", "uplink/clip/clipped", "unseen sites/accuracy", "unseen sites/mr/ssim". `flat` and
`parse` alone know how these names are made; all other code reads the fields of `LogEntry`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # at run time it would bring JAX, which a command prepares first
    from fedjax_mri.run.observers import RunProgress

TRAIN, SIMULATED, UPLINK, PRIVACY = "train", "simulated", "uplink", "privacy"
GROUPS = (TRAIN, SIMULATED, UPLINK, PRIVACY)  # of figures that are not those of a test set
Recorded = float | None  # None: a run of an older version has not recorded it
Figures = Mapping[str, float]  # a task's figures by the names that its `summary` gives them: "accuracy", "mr/ssim"


class Simulated(NamedTuple):
    """What the rounds of one segment cost in the simulated world."""

    seconds: Recorded = None  # on the virtual clock
    up_mb: Recorded = None  # from clients to the server
    down_mb: Recorded = None  # from the server to clients
    lost: Recorded = None  # clients that were asked and sent nothing
    cut: Recorded = None  # clients that sent unfinished work
    skipped: Recorded = None  # rounds to which no client came


class SegmentFigures(NamedTuple):
    """What the rounds of one segment amounted to, and how fast they were."""

    figures: Figures  # over all that was trained on; empty where no client came
    seconds: Recorded = None
    clients_per_second: Recorded = None
    images_per_second: Recorded = None
    useful_share: Recorded = None  # steps taken on examples, of all steps that the lanes took
    waited_share: Recorded = None  # of the time, for examples
    simulated: Simulated = Simulated()
    uplink: Figures = MappingProxyType({})  # notes of stages, summed over clients and rounds: "clip/clipped"


class TestFigures(NamedTuple):
    """How good a model is on one test set."""

    pooled: Figures  # over all examples
    worst_decile: Recorded = None  # mean score of the worst tenth of the clients
    client_std: Recorded = None  # standard deviation of the score over clients


class LogEntry(NamedTuple):
    """One evaluation of a run, and the segment of training before it."""

    round: int
    tests: Mapping[str, TestFigures]  # by name of the test set
    training: SegmentFigures | None = None  # None before the first round
    privacy: Figures = MappingProxyType({})  # of a private run: "epsilon" spent so far


class TissueFigures(NamedTuple):
    """How wrong the images made are in one tissue."""

    error: float  # mean absolute error
    bias: float  # mean of made minus true
    unit: str  # "HU"; "" where both are shares of the display's range


class ModalityFigures(NamedTuple):
    """How good the images of one modality are that a translator made."""

    values: Figures  # "ssim", "mae HU", "lesion Dice", ...
    tissues: Mapping[str, TissueFigures]  # empty where the data do not tell tissues


MODALITIES = ("mr", "ct")
SPREAD = ("worst_decile", "client_std")
RATES = ("seconds", "clients_per_second", "images_per_second", "useful_share", "waited_share")
TISSUE = re.compile(r"(?P<figure>error|bias)(?P<unit>| HU) in (?P<tissue>.+)")


def full_name(group: str, figure: str) -> str:
    """Returns the name under which metrics.jsonl holds a figure of the test set `group`, or of one of GROUPS."""
    return f"{group}/{figure}"


def progress_words(line: LogEntry, figure: str) -> str:
    """Returns the figures of a segment that fit on one line, with `figure` of the training and each test set.

    Those that do not exist are left out: of a segment to which no client came, and errors of images without a truth.
    """
    training = line.training if line.training and line.training.clients_per_second else SegmentFigures({})
    groups = {TRAIN: training.figures, **{name: test.pooled for name, test in line.tests.items()}}
    shown = {
        "clients/s": training.clients_per_second,
        "images/s": training.images_per_second,
        "useful": training.useful_share,
        "loss": training.figures.get("nll"),
        **line.privacy,
        **{full_name(name, figure): figures.get(figure) for name, figures in groups.items()},
    }
    known = {name: value for name, value in shown.items() if value is not None and not math.isnan(value)}
    return ", ".join(f"{name} {value:.4g}" for name, value in known.items())


def progress_line(progress: "RunProgress") -> str:
    """Returns a segment that has just ended as a line."""
    words = progress_words(progress.evaluated.line, progress.evaluated.headline)
    return f"round {progress.round}/{progress.rounds}: {words}"


def named(figures: TestFigures) -> dict[str, float]:
    """Returns all figures of one test set by name."""
    return {**figures.pooled, **_known(figures, SPREAD)}


def flat(line: LogEntry) -> dict[str, float]:
    """Returns the line as metrics.jsonl holds it."""
    found: dict[str, float] = {"round": line.round}
    if line.training is not None:
        found |= _prefixed(TRAIN, line.training.figures) | _known(line.training, RATES)
        found |= _prefixed(SIMULATED, _known(line.training.simulated, Simulated._fields))
        found |= _prefixed(UPLINK, line.training.uplink)
    found |= _prefixed(PRIVACY, line.privacy)
    for test, figures in line.tests.items():
        found |= _prefixed(test, named(figures))
    return found


def with_nulls(values: Mapping[str, float]) -> dict[str, float | None]:
    """Returns figures as strict JSON holds them, with null where one is undefined or infinite.

    A figure of a class without examples is undefined, for instance. JSON has no word for either, and bare NaN or
    Infinity make a file that only Python reads.
    """
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def with_nans(values: Mapping[str, float | None]) -> dict[str, float]:
    """Returns figures as read from JSON, with nan for null."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def parse(values: Mapping[str, float]) -> LogEntry:
    """Returns the inverse of `flat`; names of figures that are not known here are left out."""
    groups = {name: _split(name, _test_sets(values)) for name in values}
    by_group: dict[str, dict[str, float]] = {}
    for name, (group, figure) in groups.items():
        by_group.setdefault(group, {})[figure] = values[name]
    rates, train, simulated, uplink, privacy = (by_group.pop(group, {}) for group in ("", *GROUPS))
    tests = {name: _test_figures(figures) for name, figures in by_group.items()}
    costs = Simulated(**_only(simulated, Simulated._fields))
    training = SegmentFigures(train, **_only(rates, RATES), simulated=costs, uplink=uplink)
    started = train or simulated or _only(rates, RATES)
    return LogEntry(int(values["round"]), tests, training if started else None, privacy)


def by_modality(figures: TestFigures) -> dict[str, ModalityFigures]:
    """Returns the figures of each modality made; {} for a classifier.

    They go by the names that `tasks/measures.py` gives them.
    """
    found = {}
    for modality in MODALITIES:
        prefix = full_name(modality, "")
        mine = {name.removeprefix(prefix): x for name, x in figures.pooled.items() if name.startswith(prefix)}
        tissues = {name: match for name in mine if (match := TISSUE.fullmatch(name))}
        errors = {m["tissue"]: _tissue(mine, m) for m in tissues.values() if m["figure"] == "error"}
        if mine:
            found[modality] = ModalityFigures({name: x for name, x in mine.items() if name not in tissues}, errors)
    return found


def _tissue(figures: Figures, match: re.Match[str]) -> TissueFigures:
    bias = figures[f"bias{match['unit']} in {match['tissue']}"]
    return TissueFigures(figures[match.string], bias, match["unit"].strip())


def _prefixed(group: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {full_name(group, name): value for name, value in figures.items()}


def _known(fields: Any, names: Sequence[str]) -> dict[str, float]:
    """Returns those fields of a NamedTuple that have been recorded."""
    return {name: getattr(fields, name) for name in names if getattr(fields, name) is not None}


def _only(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: values[name] for name in names if name in values}


def _test_sets(values: Mapping[str, float]) -> list[str]:
    """Returns the names of the test sets, the longest first; each has a `client_std`, but for old files."""
    ending = full_name("", SPREAD[1])
    found = (name.removesuffix(ending) for name in values if name.endswith(ending))
    return sorted((name for name in found if name.split("/")[0] not in GROUPS), key=len, reverse=True)


def _split(name: str, tests: Sequence[str]) -> tuple[str, str]:
    """Returns the group and the figure that a name of metrics.jsonl stands for; the group of a rate is ""."""
    for test in tests:  # both parts may hold a "/", as in "unseen sites/ensemble" and "mr/ssim"
        if name.startswith(full_name(test, "")):
            return test, name.removeprefix(full_name(test, ""))
    group, slash, figure = name.partition("/")
    return (group, figure) if slash else ("", name)


def _test_figures(figures: Mapping[str, float]) -> TestFigures:
    pooled = {name: value for name, value in figures.items() if name not in SPREAD}
    return TestFigures(pooled, **_only(figures, SPREAD))
