"""The pages of explained patients, and the page that lists them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from fedjax_mri.data.contract import Table
from fedjax_mri.explain.model import Trained
from fedjax_mri.explain.triage import Calibration, Verdict, possible_classes
from fedjax_mri.explain.words import percent
from fedjax_mri.report import overlays
from fedjax_mri.report.figures import COLOURS, RED, STYLE, WIDE, PageSection, embedded, panels, png, svg
from fedjax_mri.report.page import publish
from fedjax_mri.xai.methods import title

PAGE = "index.html"
MAKER = "fedjax-mri explain"
CAVEAT = (
    "A map shows which pixels moved this network's score, not where a tumour is; methods differ in what they ask. "
    "Values are raw, in each method's own units. No medical device."
)
MEANINGS = (
    "Activation intensity and region coverage (system A) are over the strongest response among the test images that "
    "the run has kept. Sparseness: Gini. Deletion (lower is better) and insertion (higher): area under the class's "
    "probability as pixels go or come, the strongest first. Faithfulness: correlation of what the map gives and what "
    "the score loses. Sensitivity: how far the map moves under slight noise, over its norm."
)


class Patient(NamedTuple):
    """An explained image: its maps, its verdict and what is said of it."""

    name: str
    image: np.ndarray  # float [S, S], as the network saw it, channels averaged
    verdict: Verdict
    maps: Mapping[str, np.ndarray]  # method -> [S, S]
    figures: Mapping[str, Mapping[str, float]]  # method -> measures
    words: Sequence[str]
    lesion: np.ndarray | None  # [S, S] in 0..1, where it is known


def write_patient(
    path: Path, trained: Trained, one: Patient, calibration: Calibration | None, listed: bool = True
) -> Path:
    """Writes the page of one image, with a link to the page that lists it if it is `listed`; returns its path."""
    shown = overlays.side_by_side(one.image, {title(name): found for name, found in one.maps.items()}, one.lesion)
    outlined = " The green line is the true lesion." if one.lesion is not None else ""
    parts = [
        PageSection(words=[flag(one.verdict), *prediction(trained, one.verdict, calibration)]),
        PageSection(image=embedded(shown), caption=CAVEAT + outlined),
        PageSection("What the maps cover", words=one.words),
        PageSection("Classes", table=classes(trained, one.verdict)),
        *[PageSection("Measures", table=measures(one))] * any(one.figures.values()),
    ]
    up = "../" * (one.name.count("/") + 1)
    back = Markup('<a href="{}">all images</a>').format(up + PAGE)
    return publish(path, names=[one.name], maker=MAKER, parts=[*parts, *[PageSection(words=[back])] * listed])


def flag(verdict: Verdict) -> Markup:
    """Returns a label that says whether a person should look, and why."""
    if not verdict.reasons:
        return Markup('<b class="flag">no review asked for</b>')
    return Markup('<b class="flag review">needs human review</b> {}.').format("; ".join(verdict.reasons))


def prediction(trained: Trained, verdict: Verdict, calibration: Calibration | None) -> list[str]:
    """Returns sentences on what is predicted, with which confidence, and which other classes are possible."""
    said = f"Prediction: {trained.classes[verdict.prediction]}, confidence {verdict.confidence:.2f}"
    likely = [] if verdict.ood.p is None else [ood_sentence(verdict.ood.p)]
    if calibration is None or verdict.prediction_set is None:
        return [f"{said}, as the network gives it.", *likely]
    names = possible_classes(verdict, trained.classes)
    known = f"{calibration.examples:,} images of {calibration.test}"
    return [
        f"{said} (temperature {calibration.temperature:.2f}, from {known}).",
        f"Classes that hold the truth in {percent(1 - calibration.required.alpha)} of cases: {', '.join(names)}.",
        *likely,
    ]


def ood_sentence(p: float) -> str:
    """Returns a sentence on how unlike the run's own images an image is."""
    return f"Of images like those that the run was tested on, {percent(p, 1)} are as unlike the others or more."


def classes(trained: Trained, verdict: Verdict) -> Table:
    """Returns a table of the classes and their probabilities, the most likely first."""
    order = np.argsort(-verdict.probabilities, kind="stable")
    member = verdict.prediction_set if verdict.prediction_set is not None else np.zeros(len(order), bool)
    rows = [(trained.classes[c], float(verdict.probabilities[c]), "yes" if member[c] else "") for c in order]
    return Table("", ("class", "probability", "in the set"), rows)


def measures(one: Patient) -> Table:
    """Returns a table of the measures of each method's map."""
    names = list(next(iter(one.figures.values())))
    rows = [(title(method), *figures.values()) for method, figures in one.figures.items()]
    return Table("", ("method", *names), rows, MEANINGS)


def write_index(path: Path, trained: Trained, patients: Sequence[Patient], calibration: Calibration | None) -> Path:
    """Writes the page that lists all images, those to be reviewed first, and returns its path."""
    order = sorted(patients, key=lambda one: (not one.verdict.reasons, one.verdict.confidence))
    asked = sum(bool(one.verdict.reasons) for one in patients)
    told = [f"{len(patients)} images, {asked} of them for review. {CAVEAT}"]
    rows = [row(trained, one) for one in order]
    heading = ("", "image", "prediction", "confidence", "set", "review")
    parts = [PageSection(words=told), PageSection(table=Table("Images", heading, rows), whole=True)]
    return publish(path, names=[trained.name], maker=MAKER, parts=[*parts, *calibration_part(trained, calibration)])


def row(trained: Trained, one: Patient) -> tuple[object, ...]:
    """Returns an image's row in the list, linked to its page."""
    link = quote(f"{one.name}/{PAGE}")
    span = one.image.max() - one.image.min()
    small = png((one.image - one.image.min()) / span if span else np.clip(one.image, 0, 1))
    picture = Markup('<a href="{}"><img class="small" src="{}" alt=""></a>').format(link, small)
    names = ", ".join(possible_classes(one.verdict, trained.classes))
    said = Markup('<b class="flag review">review</b> {}').format("; ".join(one.verdict.reasons))
    return (
        picture,
        Markup('<a href="{}">{}</a>').format(link, one.name),
        trained.classes[one.verdict.prediction],
        one.verdict.confidence,
        names,
        said if one.verdict.reasons else "",
    )


def calibration_part(trained: Trained, calibration: Calibration | None) -> list[PageSection]:
    """Returns the part of a page on how confidences, prediction sets and reviews were calibrated.

    There is none without calibration.
    """
    if calibration is None:
        return []
    level = 1 - calibration.required.alpha
    sites = calibration.site_coverage[~np.isnan(calibration.site_coverage)]
    reached = f"{calibration.threshold:.2f}" if np.isfinite(calibration.threshold) else "none that reaches it"
    words = [
        f"Calibrated on {calibration.examples:,} images of {calibration.test}: "
        f"temperature {calibration.temperature:.2f}; confidence from which "
        f"{percent(calibration.required.accuracy)} are right: {reached}.",
        f"Sets at {percent(level)} hold the truth in {percent(sites.mean(), 1)} of cases on "
        f"{calibration.coverage_test}, {percent(sites.min(), 1)} at the worst of {len(sites)} sites, "
        f"{percent(np.median(sites), 1)} at the median.",
    ]
    drawn = svg(triage(calibration))
    return [
        PageSection(
            "Calibration", words=words, svg=drawn, caption=f"Left: {calibration.test}.", synthetic=trained.synthetic
        )
    ]


@matplotlib.rc_context(STYLE)
def triage(calibration: Calibration) -> Figure:
    """Draws accuracy against the share referred, and how often prediction sets hold the truth at each site."""
    figure, (left, right) = panels(2, WIDE, 2.9)
    left.plot(calibration.referred, calibration.accuracy, color=COLOURS[0])
    left.axhline(calibration.required.accuracy, color=RED, linestyle="--", linewidth=1)
    left.set(title="Accuracy of what is not referred", xlabel="share referred, the least confident first", xlim=(0, 1))
    right.hist(calibration.site_coverage, bins=np.linspace(0, 1, 21).tolist(), color=COLOURS[0], alpha=0.75)
    right.axvline(1 - calibration.required.alpha, color=RED, linestyle="--", linewidth=1)
    right.set(title=f"Coverage of sets by site, {calibration.coverage_test}", xlabel="share of truths in the set")
    right.set_ylabel("sites")
    return figure
