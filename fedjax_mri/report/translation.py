"""The parts of a report on runs that translate: system E's table, tissues, lesions, curves, sites and pictures."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_mri.data.contract import Table
from fedjax_mri.metrics import distance
from fedjax_mri.report.figures import COLOURS, WIDE, PageSection, embedded, panels, svg
from fedjax_mri.run import pictures
from fedjax_mri.run.line import ModalityFigures, by_modality
from fedjax_mri.run.record import MadeImages, RunRecord

MAIN = ("mae", "mae HU", "rmse", "rmse HU", "psnr", "ssim", "ncc", "cosine", "mutual information", "frechet")
LESIONS = (
    "lesion Dice",
    "lesion Dice of the true image",
    "contrast kept",
    "hallucination rate",
    "false positives in true images",
)
NOTE = (
    "Images in 0..1, CT in its window, HU that share of it; PSNR in dB and SSIM by Wang 2004 (Gaussian 11, 0 to 1), "
    "means over images. Frechet and kernel distance: structure filters, {n} images made and as many real; not an FID. "
    "Mutual information: nats, 64 x 64 cells."
)
CURVES = {"SSIM": "ssim", "Mean absolute error": "mae", "Frechet distance, structure filters": "frechet"}


def comparison(runs: Sequence[RunRecord]) -> list[PageSection]:
    """Returns the part of a page that shows the figures of several runs side by side; none where there are no runs."""
    return [PageSection(table=headline(runs), synthetic=any(run.synthetic for run in runs))] if runs else []


def parts(run: RunRecord) -> list[PageSection]:
    """Returns the parts of a run's page that there are.

    They are figures, curves, sites, tissues, lesions and pictures.
    """
    found = [
        PageSection(table=headline([run])),
        PageSection(svg=svg(curves(run)), caption="Test figures against rounds."),
        PageSection(svg=svg(sites(run)), caption="SSIM of each test site, from the least: mean over its patients."),
        PageSection("Tissues", table=tissues(run)),
        PageSection("Lesions", table=lesions(run)),
    ]
    if run.translated_examples is not None:
        drawn = pictures.draw(run.translated_examples, "")
        caption = "Patients of the first test set: given, made, made back, the truth, and the absolute error."
        found.append(PageSection("Pictures", image=embedded(drawn), caption=caption))
    return [part._replace(synthetic=run.synthetic) for part in found if part.table is None or part.table.rows]


def made(run: RunRecord) -> list[tuple[str, str, MadeImages]]:
    """Returns test set, modality made and what is kept of its images, for each that the run has."""
    return [(test, to, images) for test, result in run.translations.items() for to, images in result.made.items()]


def headline(runs: Sequence[RunRecord]) -> Table:
    """Returns a table of the figures of images made against the truth, for each run, test set and modality."""
    each = [
        (run.name, test, to, images, last_figures(run, test, to).values)
        for run in runs
        for test, to, images in made(run)
    ]
    names = [name for name in MAIN if any(name in figures for *_, figures in each)]
    rows = [
        (run, test, to.upper(), *(figures.get(name, math.nan) for name in names), kernel_distance(images))
        for run, test, to, images, figures in each
    ]
    count = {len(result.client) for run in runs for result in run.translations.values()}
    note = NOTE.format(n=" or ".join(map(str, sorted(count))))
    return Table(
        "Images made against the truth", ("run", "test set", "to", *names, "kernel distance x 1000"), rows, note
    )


def last_figures(run: RunRecord, test: str, to: str) -> ModalityFigures:
    """Returns the figures of a test set and modality made after the last round."""
    return by_modality(run.history[-1].tests[test])[to]


def kernel_distance(images: MadeImages) -> float:
    """Returns the kernel distance of the images made to the true ones, times 1000."""
    return 1000 * distance.kernel_distance(images.made_features, images.true_features)


def tissues(run: RunRecord) -> Table:
    """Returns a table of the error and bias of images made in each tissue."""
    rows = [
        (test, to.upper(), name, tissue.unit or "share of white", tissue.error, tissue.bias)
        for test, to, _ in made(run)
        for name, tissue in last_figures(run, test, to).tissues.items()
    ]
    columns = ("test set", "to", "tissue", "unit", "mean absolute error", "bias")
    return Table("Error by tissue", columns, rows, "Pixels weighted by how much of them is that tissue.")


def lesions(run: RunRecord) -> Table:
    """Returns a table of how tumours were kept, and where they were made up, in the images made."""
    found = [(test, to, last_figures(run, test, to).values) for test, to, _ in made(run)]
    rows = [(test, to.upper(), *map(figures.get, LESIONS)) for test, to, figures in found if LESIONS[0] in figures]
    note = (
        "Brain whose value is far from the brain's median counts as lesion, in made and true images alike; the rule's "
        "own Dice and false positives on true images stand beside those on made ones."
    )
    return Table("Lesions kept and made up", ("test set", "to", *LESIONS), rows, note)


def curves(run: RunRecord) -> Figure:
    """Draws the figures of each test set and modality against rounds."""
    figure, axes = panels(len(CURVES), WIDE, 2.9)
    for ax, (title, name) in zip(axes, CURVES.items()):
        for test, to, _ in made(run):
            figures = [(line.round, by_modality(line.tests[test])[to].values) for line in run.history]
            points = [(round, known[name]) for round, known in figures if name in known]
            ax.plot(*zip(*points), marker="o", markersize=2.5, label=f"{to.upper()}, {test}")
        ax.set(title=title, xlabel="round")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend()
    return figure


def sites(run: RunRecord) -> Figure:
    """Draws the mean SSIM of each test client, in rising order."""
    figure, (ax,) = panels(1, WIDE, 2.6)
    for number, (test, to, images) in enumerate(made(run)):
        client = run.translations[test].client
        mean = np.bincount(client, images.ssim) / np.maximum(np.bincount(client), 1)
        ax.plot(np.sort(mean), ".", color=COLOURS[number % len(COLOURS)], label=f"{to.upper()}, {test}")
    ax.set(title="SSIM by site", xlabel="sites, from the least", ylabel="SSIM")
    ax.legend()
    return figure
