"""What the report says of explanations: a few patients' maps, how they agree with lesions, how they changed."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_mri.data.contract import Table
from fedjax_mri.report import overlays
from fedjax_mri.report.figures import STYLE, WIDE, Part, embedded, panels, svg
from fedjax_mri.run.record import RunRecord
from fedjax_mri.xai import measures, stability
from fedjax_mri.xai.methods import title

ROWS = 6  # patients shown
SHOWN = ("rank correlation to the one before", "SSIM to the last", "energy inside")
NOTE = (
    "Means over {n} test images; the target is the true class. Pointing, energy and IoU at the lesion's area are over "
    "the {k} images with a known lesion. Sparseness: Gini."
)


def parts(run: RunRecord) -> list[Part]:
    """All about one run's explanations; nothing where it has none."""
    found, explained = maps_of(run), run.explained
    if not found:
        return []
    table = against_lesions(run, found)
    caption = "Maps of the last state, in each method's own units, for the true class."
    outlined = " The green line is the true lesion." if "mask" in explained else ""
    image = embedded(gallery(run, found))
    described = [
        Part("Explanations", image=image, caption=caption + outlined),
        Part(table=table),
    ]
    if len(explained["rounds"]) > 1:
        drawn = svg(curves(explained["rounds"], {name: over_rounds(explained, name) for name in found}))
        said = "The same patients' maps over the states that the run has kept: median and quartiles over patients."
        described.append(Part("Stability of explanations", svg=drawn, caption=said))
    return [part._replace(synthetic=run.synthetic) for part in described]


def maps_of(run: RunRecord) -> dict[str, np.ndarray]:
    """Method -> maps [R, s, S, S]."""
    prefix = "map/"
    return {name.removeprefix(prefix): value for name, value in run.explained.items() if name.startswith(prefix)}


@matplotlib.rc_context(STYLE)
def gallery(run: RunRecord, found: Mapping[str, np.ndarray]) -> Figure:
    """A row a patient: the image, then each method's map."""
    explained = run.explained
    chosen = order(explained)[:ROWS]
    figure = Figure(figsize=(WIDE * 1.2, 1.75 * len(chosen)), layout="constrained")
    for row, axes in zip(chosen, figure.subplots(len(chosen), 1 + len(found), squeeze=False)):
        image, lesion = explained["image"][row], explained["mask"][row] if "mask" in explained else None
        overlays.grey(axes[0], image, f"{run.classes[explained['truth'][row]]}, {explained['chance'][-1, row]:.2f}")
        for ax, (name, maps) in zip(axes[1:], found.items()):
            overlays.paint(figure, ax, image, maps[-1, row], title(name) if row == chosen[0] else "")
        for ax in axes:
            overlays.outline(ax, lesion)
    return figure


def order(explained: Mapping[str, np.ndarray]) -> list[int]:
    """Examples with a lesion first, else as they come."""
    places = range(len(explained["truth"]))
    return sorted(places, key=lambda i: "mask" in explained and not explained["mask"][i].max() >= measures.HALF)


def against_lesions(run: RunRecord, found: Mapping[str, np.ndarray]) -> Table:
    """A row a method, of the last state."""
    explained, rows = run.explained, []
    lesions = int((explained["mask"].max((1, 2)) >= measures.HALF).sum()) if "mask" in explained else 0
    for name, maps in found.items():
        rows.append((title(name), *(mean(value) for value in figures(maps[-1], explained).values())))
    heading = tuple(figures(next(iter(found.values()))[-1], explained))
    note = NOTE.format(n=len(explained["truth"]), k=lesions)
    return Table("Maps against lesions", ("method", *heading), rows, note)


def figures(maps: np.ndarray, explained: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Measures of maps [s, S, S], each [s]."""
    found = {"sparseness": measures.gini(jnp.asarray(maps))}
    if "mask" in explained:
        found |= measures.against_mask(jnp.asarray(maps), jnp.asarray(explained["mask"]))
    return jax.tree.map(np.asarray, found)


def over_rounds(explained: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Of one method, measures by state, each [R, s]."""
    maps = explained[f"map/{name}"]
    each = [figures(one, explained) for one in maps]
    found = jax.tree.map(np.asarray, jax.jit(stability.curves)(jnp.asarray(maps)))
    return {**found, **{what: np.stack([one[what] for one in each]) for what in each[0]}}


@matplotlib.rc_context(STYLE)
def curves(rounds: np.ndarray, methods: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """A panel a measure, a line a method: the median over patients of [R, s], with quartiles."""
    shown = [what for what in SHOWN if what in next(iter(methods.values()))]
    figure, axes = panels(len(shown), WIDE, 2.9)
    for ax, what in zip(axes, shown):
        for name, values in methods.items():
            low, middle, high = quartiles(values[what])
            (line,) = ax.plot(rounds, middle, marker="o", markersize=2.5, label=title(name))
            ax.fill_between(rounds, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        ax.set(title=what[0].upper() + what[1:], xlabel="round")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend()
    return figure


def quartiles(values: np.ndarray) -> np.ndarray:
    """[3, R] from [R, s], of those that are numbers; nan where none is."""
    rows = [row[~np.isnan(row)] for row in values]
    return np.array([np.percentile(row, (25, 50, 75)) if len(row) else [math.nan] * 3 for row in rows]).T


def mean(values: np.ndarray) -> float:
    """Of those that are numbers; nan where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
