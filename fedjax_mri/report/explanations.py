"""The parts of a report on explanations: a few patients' maps, how they agree with lesions, how they changed."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_mri.data.contract import Table
from fedjax_mri.report import overlays
from fedjax_mri.report.figures import STYLE, WIDE, PageSection, embedded, panels, svg
from fedjax_mri.report.statistics import mean_of_known, quartiles
from fedjax_mri.run.record import Explained, RunRecord
from fedjax_mri.xai import measures, stability
from fedjax_mri.xai.methods import title

ROWS = 6  # patients shown
CURVES = ("rank correlation to the one before", "SSIM to the last", "energy inside")
NOTE = (
    "Means over {n} test images; the target is the true class. Pointing, energy and IoU at the lesion's area are over "
    "the {k} images with a known lesion. Sparseness: Gini."
)


def parts(run: RunRecord) -> list[PageSection]:
    """Returns the parts of a run's page on its explanations; none where it has none."""
    explained = run.explained
    if explained is None:
        return []
    caption = "Maps of the last state, in each method's own units, for the true class."
    outlined = " The green line is the true lesion." if explained.mask is not None else ""
    found = [
        PageSection("Explanations", image=embedded(gallery(explained, run.classes)), caption=caption + outlined),
        PageSection(table=against_lesions(explained)),
    ]
    if len(explained.rounds) > 1:
        drawn = svg(curves(explained.rounds, {name: over_rounds(explained, name) for name in explained.maps}))
        said = "The same patients' maps over the states that the run has kept: median and quartiles over patients."
        found.append(PageSection("Stability of explanations", svg=drawn, caption=said))
    return [part._replace(synthetic=run.synthetic) for part in found]


@matplotlib.rc_context(STYLE)
def gallery(explained: Explained, classes: Sequence[str]) -> Figure:
    """Draws a row for each patient: the image, then each method's map by the last state."""
    chosen = lesions_first(explained)[:ROWS]
    figure = Figure(figsize=(WIDE * 1.2, 1.75 * len(chosen)), layout="constrained")
    for row, axes in zip(chosen, figure.subplots(len(chosen), 1 + len(explained.maps), squeeze=False)):
        image, lesion = explained.image[row], None if explained.mask is None else explained.mask[row]
        overlays.grey(axes[0], image, f"{classes[explained.truth[row]]}, {explained.truth_probability[-1, row]:.2f}")
        for ax, (name, maps) in zip(axes[1:], explained.maps.items()):
            overlays.paint(figure, ax, image, maps[-1, row], title(name) if row == chosen[0] else "")
        for ax in axes:
            overlays.outline(ax, lesion)
    return figure


def lesions_first(explained: Explained) -> list[int]:
    """Returns the places of the examples, those with a lesion first."""
    return sorted(range(len(explained.truth)), key=lambda place: not has_lesion(explained)[place])


def has_lesion(explained: Explained) -> np.ndarray:
    """Returns which examples are known to have a lesion, bool [s]."""
    mask = explained.mask
    return np.zeros(len(explained.truth), bool) if mask is None else mask.max((1, 2)) >= measures.HALF


def against_lesions(explained: Explained) -> Table:
    """Returns a table of the measures of the last state's maps, in a row for each method."""
    found = {name: measured(maps[-1], explained.mask) for name, maps in explained.maps.items()}
    rows = [(title(name), *map(mean_of_known, figures.values())) for name, figures in found.items()]
    heading = tuple(next(iter(found.values())))
    note = NOTE.format(n=len(explained.truth), k=int(has_lesion(explained).sum()))
    return Table("Maps against lesions", ("method", *heading), rows, note)


def measured(maps: np.ndarray, mask: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns measures of maps [s, S, S], each [s].

    Where lesions [s, S, S] are known, some measure how maps agree with them.
    """
    found = {"sparseness": measures.gini(jnp.asarray(maps))}
    if mask is not None:
        found |= measures.against_mask(jnp.asarray(maps), jnp.asarray(mask))
    return jax.tree.map(np.asarray, found)


def over_rounds(explained: Explained, method: str) -> dict[str, np.ndarray]:
    """Returns the measures of a method's maps by each state that was kept, each [R, s]."""
    maps = explained.maps[method]
    each = [measured(one, explained.mask) for one in maps]
    found = jax.tree.map(np.asarray, jax.jit(stability.curves)(jnp.asarray(maps)))
    return {**found, **{name: np.stack([one[name] for one in each]) for name in each[0]}}


@matplotlib.rc_context(STYLE)
def curves(rounds: np.ndarray, methods: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws a panel for each measure, with a line for each method.

    A line is the median over patients of [R, s], with quartiles.
    """
    shown = [what for what in CURVES if what in next(iter(methods.values()))]
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
