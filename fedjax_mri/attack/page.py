"""The page of attacks on a run, and the same figures as a table for the terminal."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_mri.attack.findings import Findings, Members, Scored
from fedjax_mri.attack.membership import FALSE_POSITIVES, LEVEL, Detection, curve
from fedjax_mri.attack.trial import Trial
from fedjax_mri.data.contract import Table
from fedjax_mri.report.figures import STYLE, WIDE, PageSection, panels, png, svg
from fedjax_mri.report.page import publish

SHOWN = 4  # images of a trial on the page
LEAST_RATE = 1e-4  # where the axes of a ROC curve begin
MEMBERSHIP = (
    "Share of the patients trained on that an attack finds while it takes 0.1 % or 1 % of other patients for members, "
    f"with Clopper and Pearson's interval at {100 * LEVEL:g} %. An attack that knows nothing finds 0.1 % and 1 %, and "
    "has an AUC of 0.5."
)
INVERSION = (
    "PSNR in dB and SSIM (Wang 2004), the found images paired with the true ones as well as they can be; means over "
    "trials. Grey is one grey for all pixels, mean is the mean image of other patients: what an attacker has without "
    "the update. Labels: share of the labels that the update gives away."
)


def write(path: Path, found: Findings) -> Path:
    """Writes the page of a run's attacks, and returns its path."""
    parts = [PageSection(words=[f"What defends this run: {found.defence}."])]
    parts += membership_parts(found.members, found.synthetic) if found.members else []
    parts += inversion_parts(found) if found.trials else []
    return publish(path, names=[found.name], maker="fedjax-mri attack", parts=parts)


def text(found: Findings) -> str:
    """Returns the figures as lines of a terminal."""
    tables = [*(membership_tables(found.members) if found.members else []), *inversion_tables(found)]
    return "\n\n".join(map(lines, tables))


def lines(table: Table) -> str:
    """Returns a table as text."""
    rows = [table.columns, *([cell(value) for value in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    return "\n".join([table.title, *("  ".join(f"{c:<{w}}" for c, w in zip(row, widths)).rstrip() for row in rows)])


def cell(value: object) -> str:
    """Returns a cell of a table as text."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def membership_tables(members: Members) -> list[Table]:
    """Returns a table of attacks on the run itself, and one of those on its shadow models."""
    columns = ("attack", "AUC", *(f"found at {100 * rate:g} % false positives" for rate in FALSE_POSITIVES))
    titles = {"The run": members.run, f"{members.models} models trained like it": members.shadows}
    return [
        Table(f"{title}: {sizes(scored)}", columns, [row(name, one) for name, one in scored.items()], MEMBERSHIP)
        for title, scored in titles.items()
    ]


def sizes(scored: Mapping[str, Scored]) -> str:
    """Returns in words how many members and others an attack was given."""
    one = next(iter(scored.values())).success
    return f"{one.members:,} members, {one.others:,} others"


def row(name: str, one: Scored) -> tuple[object, ...]:
    """Returns an attack's row in the table."""
    return name, one.success.auc, *map(share, one.success.detections)


def share(one: Detection) -> str:
    """Returns a share of members that were found, with its interval."""
    return f"{100 * one.rate:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})"


def membership_parts(members: Members, synthetic: bool) -> list[PageSection]:
    """Returns what the page says of membership."""
    words = [
        f"{members.models} shadow models were trained by the run's own config on random halves of the patients, for "
        f"{members.rounds} rounds, as members of one compiled program, in {members.seconds:.0f} s. Patients that the "
        f"run was not trained on are those of its test set “{members.held_out}” from the same hospitals.",
        "The second table attacks each shadow model with the others. Its members are random, so that nothing but "
        "membership tells them, and they are many more. Patients repeat, so that the interval is a little narrow.",
    ]
    tables = [PageSection(table=table, whole=True, synthetic=synthetic) for table in membership_tables(members)]
    drawn = svg(roc({"The run": members.run, "Models trained like it": members.shadows}))
    caption = "Members found against others taken for members; the dotted line is guessing."
    return [
        PageSection("Who was trained on", words=words),
        *tables,
        PageSection(svg=drawn, caption=caption, synthetic=synthetic),
    ]


@matplotlib.rc_context(STYLE)
def roc(several: Mapping[str, Mapping[str, Scored]]) -> Figure:
    """Returns a figure with the ROC curves of attacks, a panel for each of `several` targets."""
    figure, axes = panels(len(several), WIDE, 3.4)
    for ax, (title, scored) in zip(axes, several.items()):
        draw_roc(ax, scored)
        ax.set(title=title)
    axes[-1].legend(loc="lower right")
    return figure


def draw_roc(ax: Axes, scored: Mapping[str, Scored]) -> None:
    """Draws the ROC curves of attacks, both axes logarithmic; the dotted line is guessing."""
    for name, one in scored.items():
        false, true = curve(one.scores, one.member)
        ax.plot(np.maximum(false, LEAST_RATE), np.maximum(true, LEAST_RATE), label=name, drawstyle="steps-post")
    ax.plot([LEAST_RATE, 1], [LEAST_RATE, 1], color="#888888", linestyle=":", linewidth=1)
    limits, ticks = (LEAST_RATE, 1), ("0.01 %", "0.1 %", "1 %", "10 %", "100 %")
    ax.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(np.logspace(-4, 0, len(ticks)), ticks)
    ax.set(xlabel="false positives", ylabel="members found")


def inversion_tables(found: Findings) -> list[Table]:
    """Returns a table with a row for each number of images that a hospital holds; none without trials."""
    if not found.trials:
        return []
    columns = ("images", "PSNR", "SSIM", "PSNR grey", "PSNR mean", "SSIM mean", "labels", "local steps")
    rows = [(batch, *figures(several)) for batch, several in found.trials.items()]
    return [Table(f"Images found in the update of {senders(found.cohort)}", columns, rows, INVERSION)]


def senders(cohort: int) -> str:
    """Returns in words whose update is seen."""
    return "one hospital" if cohort == 1 else f"{cohort} hospitals, of which the sum is seen"


def figures(several: list[Trial]) -> tuple[object, ...]:
    """Returns the means over trials of what a row of the table shows."""
    each = [(one.psnr, one.ssim, one.constant[0], *one.mean, one.labels) for one in several]
    return (*(float(value) for value in np.mean(each, 0)), several[0].steps)


def inversion_parts(found: Findings) -> list[PageSection]:
    """Returns what the page says of gradient inversion, with some true and found images."""
    words = [
        "The attacker sees what leaves the reduction in one round, and knows the model before it, the labels as far as "
        "the update tells them, the number of images, and how hospitals train. The hospital holds these images alone: "
        "one that holds more gives less away."
    ]
    tables = [PageSection(table=table, whole=True, synthetic=found.synthetic) for table in inversion_tables(found)]
    return [PageSection("What the images were", words=words), *tables, *(pictures(found, n) for n in found.trials)]


def pictures(found: Findings, batch: int) -> PageSection:
    """Returns the first trial's true images above what was found of them."""
    one = found.trials[batch][0]
    rows = [Markup("").join(map(picture, images[:SHOWN])) for images in (one.truth, one.found)]
    title = (
        f"{batch} images: true ones, and found ones, which are in no order" if batch > 1 else "1 image, true and found"
    )
    table = Table(title, ("", ""), [("true", rows[0]), ("found", rows[1])])
    return PageSection(table=table, whole=True, synthetic=found.synthetic)


def picture(image: np.ndarray) -> Markup:
    """Returns an image of the page."""
    return Markup('<img src="{}" alt="" width="128">').format(png(image))
