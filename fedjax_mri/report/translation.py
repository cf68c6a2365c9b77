"""What the report says of runs that translate: system E's table, tissues, lesions, curves, sites and pictures."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_mri.data.contract import Table
from fedjax_mri.metrics import distance
from fedjax_mri.report.figures import COLOURS, WIDE, Part, embedded, panels, svg
from fedjax_mri.run import pictures
from fedjax_mri.run.record import RunRecord

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


def compared(runs: Sequence[RunRecord]) -> list[Part]:
    """The same figures of several runs side by side."""
    return [Part(table=headline(runs), synthetic=any(run.synthetic for run in runs))] if runs else []


def parts(runs: Sequence[RunRecord]) -> list[Part]:
    """All about one run."""
    (run,) = runs
    shown = pictures.draw(run.shown, "") if run.shown else None
    found = [
        Part(table=headline(runs)),
        Part(svg=svg(curves(run)), caption="Test figures against rounds."),
        Part(svg=svg(sites(run)), caption="SSIM of each test site, from the least: mean over its patients."),
        Part("Tissues", table=tissues(run)),
        Part("Lesions", table=lesions(run)),
    ]
    if shown is not None:
        caption = "Patients of the first test set: given, made, made back, the truth, and the absolute error."
        found.append(Part("Pictures", image=embedded(shown), caption=caption))
    return [part._replace(synthetic=run.synthetic) for part in found if part.table is None or part.table.rows]


def ways(run: RunRecord) -> list[tuple[str, str]]:
    """Test set and modality made, of which there are figures."""
    return [(name, to) for name, fields in run.kept.items() for to in ("mr", "ct") if f"{to}/ssim" in fields]


def headline(runs: Sequence[RunRecord]) -> Table:
    """A row for each run, test set and modality made."""
    names = [name for name in MAIN if any(name in own(run, *way) for run in runs for way in ways(run))]
    rows = []
    for run in runs:
        for test, to in ways(run):
            figures, kernel = own(run, test, to), kernel_distance(run, test, to)
            rows.append((run.name, test, to.upper(), *(figures.get(name, math.nan) for name in names), kernel))
    count = {len(fields["client"]) for run in runs for fields in run.kept.values()}
    note = NOTE.format(n=" or ".join(map(str, sorted(count))))
    return Table(
        "Images made against the truth", ("run", "test set", "to", *names, "kernel distance x 1000"), rows, note
    )


def own(run: RunRecord, test: str, to: str) -> Mapping[str, float]:
    """The last figures of one test set and modality, by their short names."""
    prefix = f"{test}/{to}/"
    return {name.removeprefix(prefix): x for name, x in run.history[-1].items() if name.startswith(prefix)}


def kernel_distance(run: RunRecord, test: str, to: str) -> float:
    """Of the features kept, times 1000."""
    return 1000 * distance.kernel_distance(*(run.kept[test][f"{to}/{which}"] for which in ("made", "real")))


def tissues(run: RunRecord) -> Table:
    """Error and bias by tissue."""
    rows = []
    for test, to in ways(run):
        for name, error in own(run, test, to).items():
            if name.startswith("error"):
                unit, tissue = name.removeprefix("error").split(" in ")
                bias = own(run, test, to)[f"bias{unit} in {tissue}"]
                rows.append((test, to.upper(), tissue, unit.strip() or "share of white", error, bias))
    columns = ("test set", "to", "tissue", "unit", "mean absolute error", "bias")
    return Table("Error by tissue", columns, rows, "Pixels weighted by how much of them is that tissue.")


def lesions(run: RunRecord) -> Table:
    """What became of tumours."""
    found = [(test, to, own(run, test, to)) for test, to in ways(run)]
    rows = [(test, to.upper(), *map(figures.get, LESIONS)) for test, to, figures in found if LESIONS[0] in figures]
    note = (
        "Brain whose value is far from the brain's median counts as lesion, in made and true images alike; the rule's "
        "own Dice and false positives on true images stand beside those on made ones."
    )
    return Table("Lesions kept and made up", ("test set", "to", *LESIONS), rows, note)


def curves(run: RunRecord) -> Figure:
    """Figures of each test set and modality against rounds."""
    figure, axes = panels(len(CURVES), WIDE, 2.9)
    for ax, (title, name) in zip(axes, CURVES.items()):
        for test, to in ways(run):
            key = f"{test}/{to}/{name}"
            points = [(line["round"], line[key]) for line in run.history if key in line]
            ax.plot(*zip(*points), marker="o", markersize=2.5, label=f"{to.upper()}, {test}")
        ax.set(title=title, xlabel="round")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend()
    return figure


def sites(run: RunRecord) -> Figure:
    """Mean SSIM of each test client."""
    figure, (ax,) = panels(1, WIDE, 2.6)
    for number, (test, to) in enumerate(ways(run)):
        client, values = run.kept[test]["client"], run.kept[test][f"{to}/ssim"]
        mean = np.bincount(client, values) / np.maximum(np.bincount(client), 1)
        ax.plot(np.sort(mean), ".", color=COLOURS[number % len(COLOURS)], label=f"{to.upper()}, {test}")
    ax.set(title="SSIM by site", xlabel="sites, from the least", ylabel="SSIM")
    ax.legend()
    return figure
