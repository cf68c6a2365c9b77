"""A finished run judged site by site: who is served worse than whom, and who gains from whose taking part."""

import csv
import io
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedjax_mri import report, results, runfolder, trees
from fedjax_mri.config import Experiment
from fedjax_mri.data.client_data import Federation, Test
from fedjax_mri.errors import UserError
from fedjax_mri.experiment import assemble, describe
from fedjax_mri.fed import engine, evaluate, placement, segments
from fedjax_mri.fed.engine import State
from fedjax_mri.fed.placement import Placed
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.metrics import classification, fairness
from fedjax_mri.metrics.classification import Tally

MOST = 64  # sites that are left out one by one
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
    """Every site and group of each test set of a finished run. Raises UserError where it has not finished."""
    record, (owners, groups) = results.load(run), results.sites(run)
    groups = groupings(record.labels, record.classes) | groups
    return [
        row for name, test in record.tests.items() for row in judged(name, test.tally, owners[name], groups)
    ]  # fmt: skip


def groupings(labels: np.ndarray, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Groups of training sites that their examples by class, int [N, C], tell: names str [N]."""
    sizes = labels.sum(1)
    quartile = np.searchsorted(np.percentile(sizes, (25, 50, 75)), sizes)
    names = np.array(["1st quarter, smallest", "2nd quarter", "3rd quarter", "4th quarter, largest"])
    return {"size": names[quartile], "dominant label": np.asarray(classes)[labels.argmax(1)]}


def judged(test: str, tally: Tally, owner: np.ndarray, groups: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """Rows of one test set: its M sites, then the groups that their training sites, `owner` int [M], are in."""
    labels = [f"site {k}" if k >= 0 else f"unseen site {m}" for m, k in enumerate(owner)]
    yield from rows(test, SITE, labels, tally, np.ones(len(owner), int))
    if (owner < 0).all():
        return
    for grouping, group in groups.items():
        names, of = np.unique(group, return_inverse=True)
        member = np.where(owner < 0, -1, of[owner])
        there = np.bincount(member[(member >= 0) & (tally.weight > 0)], minlength=len(names))
        yield from rows(test, grouping, names.tolist(), trees.sum_by(tally, member, len(names)), there)


def rows(test: str, grouping: str, names: Sequence[str], tally: Tally, sites: np.ndarray) -> Iterator[Row]:
    """A row for each of G tallies that holds an example."""
    recall = np.asarray(classification.recall(tally))
    low, high = classification.interval(tally)
    columns = (
        classification.accuracy(tally),
        low,
        high,
        classification.macro(recall),
        1 - classification.ece(tally),
    )
    for name, count, weight, figures, each in zip(names, sites, tally.weight, np.stack(columns, 1), recall):
        if weight > 0:
            yield Row(test, grouping, name, int(count), int(weight), *figures.tolist(), tuple(each.tolist()))


def spreads(found: Sequence[Row]) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Test set, grouping, figure, and its `fairness.spread` over the groups; a site counts as much as any other."""
    for test, grouping in dict.fromkeys((row.test, row.grouping) for row in found):
        mine = [row for row in found if (row.test, row.grouping) == (test, grouping)]
        for figure in FIGURES:
            values = np.array([getattr(row, figure) for row in mine])
            yield test, grouping, figure, fairness.spread(values, np.ones(len(values)))


# Leaving sites out


def gains(config: Experiment, rounds: int, say: Callable[[str], None]) -> np.ndarray:
    """What each site's taking part adds to the score of each other, float [N, N]: row k, column j: of k for j.

    The run is trained for `rounds` rounds by everyone, and once without each site, all else the same; nan for a site
    without test examples. Raises UserError for more than MOST sites, or where no test set belongs to training sites.
    """
    federation = config.data.build(config.seed)
    sites = len(federation.train.sizes)
    refuse_many(sites)
    test = next((test for test in federation.tests.values() if (test.owner >= 0).any()), None)
    if test is None:
        raise UserError("--leave-one-out: no test set belongs to the sites that train; nobody could gain")
    plan = replace(config.plan, data="replicated", clients="device").resolve()
    score = scorer(config, federation, plan, rounds, test)
    scores = []
    for site in (-1, *range(sites)):
        scores.append(score(site))
        say(f"trained {rounds} rounds " + (f"without site {site} of {sites}" if site >= 0 else "with everyone"))
    return scores[0][None] - np.stack(scores[1:])


def refuse_many(sites: int) -> None:
    """Raises UserError where leaving sites out one by one would take too long."""
    if sites > MOST:
        raise UserError(f"--leave-one-out: {sites} sites would be {sites + 1} runs; this is for {MOST} sites or fewer")


def scorer(config: Experiment, federation: Federation, plan: Plan, rounds: int, test: Test) -> Callable[..., Any]:
    """Site left out, or -1 -> the score of each site after training without it, float [N]; compiled once."""
    described, root = describe(federation), jax.random.key(config.seed)

    def simulated(without: Any) -> engine.Simulation:
        return assemble(replace(config, sampling=Everyone(without)), described, federation.train, plan)

    def train(state: State, root: jax.Array, placed: Placed, without: jax.Array) -> State:
        sim = simulated(without)

        def body(_: jax.Array, state: State) -> State:
            return engine.one_round(sim, plan, state, root, placed, engine.drawn(sim, root, state.round))[0]

        return jax.lax.fori_loop(0, rounds, body, state)

    sim, placed = simulated(-1), placement.placed(federation.train, plan)
    first, judge = engine.first(sim, plan, root), evaluate.build(sim.task, plan, {"": test})
    program = segments.compiled(plan, train, first, root, placed, np.int32(-1))

    def score(without: int) -> np.ndarray:
        state = program(jax.tree.map(jnp.copy, first), root, placed, np.int32(without))
        metrics = judge(stranger(state, without))[""].metrics
        return np.asarray(sim.task.score(trees.sum_by(metrics, test.owner, len(federation.train.sizes))))

    return score


def stranger(state: State, site: int) -> State:
    """`state` where the `site` left out has the mean of the others' own parts, as any that took no part."""
    if site < 0:
        return state
    mean = evaluate.own(state.clients, np.array([-1]))
    model = trees.put(state.clients.model, np.array([site]), mean)
    return state._replace(clients=state.clients._replace(model=model))


# Files


def write(run: pathlib.Path, leave_one_out: bool, rounds: int, say: Callable[[str], None]) -> list[pathlib.Path]:
    """audit.csv, audit.md and audit.png of a run; with `leave_one_out` the same of what sites do for one another.

    `rounds` of each training without a site; 0: as many as the run. Raises UserError where there is no such run.
    """
    facts, config = runfolder.read_json(run / "run.json"), runfolder.read_config(run)
    if rounds < 0:
        raise UserError(f"--rounds {rounds}: must be 1 or more, or 0 for as many as the run had")
    if leave_one_out:
        refuse_many(facts["clients"])
    found = audit(run)
    gain = gains(config, rounds or config.rounds, say) if leave_one_out else None
    runfolder.write_text(run / "audit.csv", table(facts["classes"], found))
    runfolder.write_text(run / "audit.md", page(facts, found, gain))
    with matplotlib.rc_context(report.STYLE):
        draw(found, facts["synthetic"]).savefig(run / "audit.png", dpi=150)
    written = [run / f"audit.{kind}" for kind in ("csv", "md", "png")]
    return written if gain is None else [*written, *write_gains(run, gain, facts["synthetic"])]


def write_gains(run: pathlib.Path, gain: np.ndarray, synthetic: bool) -> list[pathlib.Path]:
    """leave_one_out.csv and leave_one_out.png."""
    heading = ["site taking part", *(f"for site {j}" for j in range(len(gain)))]
    lines = [[f"site {k}", *(f"{value:.6g}" for value in row)] for k, row in enumerate(gain)]
    runfolder.write_text(run / "leave_one_out.csv", comma_separated([heading, *lines]))
    with matplotlib.rc_context(report.STYLE):
        heat(gain, synthetic).savefig(run / "leave_one_out.png", dpi=150)
    return [run / "leave_one_out.csv", run / "leave_one_out.png"]


def table(classes: Sequence[str], found: Sequence[Row]) -> str:
    """All rows as CSV."""
    heading = [*Row._fields[:-1], *(f"sensitivity to {name}" for name in classes)]
    lines = [[value if isinstance(value, str | int) else f"{value:.6g}" for value in (*row[:-1], *row.recall)]
             for row in found]  # fmt: skip
    return comma_separated([heading, *lines])


def comma_separated(lines: Sequence[Sequence[Any]]) -> str:
    """Lines as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def page(facts: Mapping[str, Any], found: Sequence[Row], gain: np.ndarray | None) -> str:
    """What an auditor reads first, as Markdown."""
    said = "All figures are from synthetic data. " if facts["synthetic"] else ""
    over = [
        (
            test,
            grouping,
            figure,
            values["clients"],
            *(values[name] for name in ("mean", "worst", "best", "gap", "jain")),
        )
        for test, grouping, figure, values in spreads(found)
    ]
    groups = [row[:-1] for row in found if row.grouping != SITE]
    worst = sorted((row for row in found if row.grouping == SITE), key=lambda row: row.accuracy)[:10]
    parts = [
        f"# Audit of {facts['name']}",
        f"{said}Sensitivity is the macro average over classes, calibration 1 - ECE (15 bins); 1 is best. The gap is "
        "best less worst, Jain's index 1 when all are equal. Every group counts the same.",
        "## How evenly the model serves",
        markdown(("test set", "over", "figure", "groups", "mean", "worst", "best", "gap", "Jain"), over),
        "## Groups of sites",
        markdown(Row._fields[:-1], groups) if groups else "No test set belongs to training sites.",
        "## The ten sites served worst",
        markdown(Row._fields[:-1], [row[:-1] for row in worst]),
    ]
    return "\n\n".join(parts + ([] if gain is None else gained(gain))) + "\n"


def gained(gain: np.ndarray) -> list[str]:
    """What leaving each site out has shown."""
    others = np.where(np.eye(len(gain), dtype=bool), np.nan, gain)
    lines = [
        (f"site {k}", int(np.sum(row > 0)), int(np.sum(row < 0)), mean(row), gain[k, k], mean(others[:, k]))
        for k, row in enumerate(others)
    ]
    heading = ("site", "helps", "hurts", "mean gain of the others", "its own gain", "mean gain from another")
    return [
        "## Whom each site helps",
        "The score with everyone less the score without the site: above 0, its taking part helped. One training each.",
        markdown(heading, lines),
    ]


def mean(values: np.ndarray) -> float:
    """Of those that are numbers; nan where none is."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def markdown(heading: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table."""
    cells = [[f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "/") for value in line]
             for line in (heading, ["---"] * len(heading), *lines)]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def draw(found: Sequence[Row], synthetic: bool) -> Figure:
    """Accuracy of each group of sites with its 95 % interval, a panel for each test set and grouping."""
    panels = list(dict.fromkeys((row.test, row.grouping) for row in found))
    figure = Figure(figsize=(report.WIDE, 2.6 * len(panels)), layout="constrained")
    for ax, (test, grouping) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels):
        mine = [row for row in found if (row.test, row.grouping) == (test, grouping)]
        mine = sorted(mine, key=lambda row: row.accuracy)[-report.LONGEST :] if grouping == SITE else mine
        place = np.arange(len(mine))
        ax.vlines(place, [row.low for row in mine], [row.high for row in mine], color=report.COLOURS[0], alpha=0.4)
        ax.plot(place, [row.accuracy for row in mine], "o", color=report.COLOURS[0], markersize=4)
        few = len(mine) <= report.FEW and grouping != SITE
        ax.set_xticks(place if few else [], [f"{row.name}\n{row.sites} sites" for row in mine] if few else [])
        ax.set(title=f"{test}, by {grouping}" + ", synthetic" * synthetic, ylabel="accuracy")
    return figure


def heat(gain: np.ndarray, synthetic: bool) -> Figure:
    """The matrix of gains: blue where a site helps another, red where it hurts."""
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    ax, most = figure.subplots(), max(float(np.nanmax(np.abs(gain), initial=0.0)), 1e-6)
    picture = ax.imshow(gain, cmap="RdBu", vmin=-most, vmax=most)
    figure.colorbar(picture, label="gain in score by its taking part")
    ax.set(title="Whom each site helps" + ", synthetic" * synthetic, xlabel="for site", ylabel="site taking part")
    ax.grid(False)
    return figure
