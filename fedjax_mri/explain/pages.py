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
from fedjax_mri.explain.triage import Calibration, Verdict
from fedjax_mri.explain.words import percent
from fedjax_mri.report import overlays
from fedjax_mri.report.figures import COLOURS, RED, STYLE, WIDE, Part, embedded, panels, png, svg
from fedjax_mri.report.run import publish
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
    """One explained image."""

    name: str
    image: np.ndarray  # float [S, S], as the network saw it, channels averaged
    verdict: Verdict
    maps: Mapping[str, np.ndarray]  # method -> [S, S]
    figures: Mapping[str, Mapping[str, float]]  # method -> measures
    words: Sequence[str]
    lesion: np.ndarray | None  # [S, S] in 0..1, where it is known


def patient(path: Path, this: Trained, one: Patient, calibration: Calibration | None) -> Path:
    """The page of one image."""
    shown = overlays.side_by_side(one.image, {title(name): found for name, found in one.maps.items()}, one.lesion)
    outlined = " The green line is the true lesion." if one.lesion is not None else ""
    parts = [
        Part(words=[flag(one.verdict), *prediction(this, one.verdict, calibration)]),
        Part(image=embedded(shown), caption=CAVEAT + outlined),
        Part("What the maps cover", words=one.words),
        Part("Classes", table=classes(this, one.verdict)),
        Part("Measures", table=measures(one)),
    ]
    up = "../" * (one.name.count("/") + 1)
    back = Markup('<a href="{}">all images</a>').format(up + PAGE)
    return publish(path, names=[one.name], maker=MAKER, parts=[*parts, Part(words=[back])])


def flag(verdict: Verdict) -> Markup:
    """Whether a person should look, and why."""
    if not verdict.reasons:
        return Markup('<b class="flag">no review asked for</b>')
    return Markup('<b class="flag review">needs human review</b> {}.').format("; ".join(verdict.reasons))


def prediction(this: Trained, verdict: Verdict, calibration: Calibration | None) -> list[str]:
    """What is predicted, how surely, and what else it may be."""
    said = f"Prediction: {this.classes[verdict.prediction]}, confidence {verdict.confidence:.2f}"
    if calibration is None or verdict.chosen is None:
        return [f"{said}, as the network gives it."]
    names = [name for name, is_in in zip(this.classes, verdict.chosen) if is_in]
    known = f"{calibration.examples:,} images of {calibration.test}"
    return [
        f"{said} (temperature {calibration.temperature:.2f}, from {known}).",
        f"Classes that hold the truth in {percent(1 - calibration.wanted.alpha)} of cases: {', '.join(names)}.",
    ]


def classes(this: Trained, verdict: Verdict) -> Table:
    """Each class's probability, the most likely first."""
    order = np.argsort(-verdict.probabilities, kind="stable")
    member = verdict.chosen if verdict.chosen is not None else np.zeros(len(order), bool)
    rows = [(this.classes[c], float(verdict.probabilities[c]), "yes" if member[c] else "") for c in order]
    return Table("", ("class", "probability", "in the set"), rows)


def measures(one: Patient) -> Table:
    """A row a method."""
    names = list(next(iter(one.figures.values())))
    rows = [(title(method), *figures.values()) for method, figures in one.figures.items()]
    return Table("", ("method", *names), rows, MEANINGS)


def index(path: Path, this: Trained, patients: Sequence[Patient], calibration: Calibration | None) -> Path:
    """All images, those to be reviewed first."""
    order = sorted(patients, key=lambda one: (not one.verdict.reasons, one.verdict.confidence))
    asked = sum(bool(one.verdict.reasons) for one in patients)
    told = [f"{len(patients)} images, {asked} of them for review. {CAVEAT}"]
    rows = [row(this, one) for one in order]
    heading = ("", "image", "prediction", "confidence", "set", "review")
    parts = [Part(words=told), Part(table=Table("Images", heading, rows), whole=True)]
    return publish(path, names=[this.name], maker=MAKER, parts=[*parts, *trust(this, calibration)])


def row(this: Trained, one: Patient) -> tuple[object, ...]:
    """One image's line, linked to its page."""
    link = quote(f"{one.name}/{PAGE}")
    span = one.image.max() - one.image.min()
    small = png((one.image - one.image.min()) / (span or 1.0))
    picture = Markup('<a href="{}"><img class="small" src="{}" alt=""></a>').format(link, small)
    chosen = one.verdict.chosen
    names = "" if chosen is None else ", ".join(name for name, is_in in zip(this.classes, chosen) if is_in)
    said = Markup('<b class="flag review">review</b> {}').format("; ".join(one.verdict.reasons))
    return (
        picture,
        Markup('<a href="{}">{}</a>').format(link, one.name),
        this.classes[one.verdict.prediction],
        one.verdict.confidence,
        names,
        said if one.verdict.reasons else "",
    )


def trust(this: Trained, calibration: Calibration | None) -> list[Part]:
    """What the run's own predictions say of confidences, sets and review."""
    if calibration is None:
        return []
    level = 1 - calibration.wanted.alpha
    sites = calibration.sites[~np.isnan(calibration.sites)]
    reached = f"{calibration.threshold:.2f}" if np.isfinite(calibration.threshold) else "none that reaches it"
    words = [
        f"Calibrated on {calibration.examples:,} images of {calibration.test}: "
        f"temperature {calibration.temperature:.2f}; confidence from which "
        f"{percent(calibration.wanted.accuracy)} are right: {reached}.",
        f"Sets at {percent(level)} hold the truth in {percent(sites.mean(), 1)} of cases on {calibration.other}, "
        f"{percent(sites.min(), 1)} at the worst of {len(sites)} sites, {percent(np.median(sites), 1)} at the median.",
    ]
    drawn = svg(triage(calibration))
    return [Part("Calibration", words=words, svg=drawn, caption=f"Left: {calibration.test}.", synthetic=this.synthetic)]


@matplotlib.rc_context(STYLE)
def triage(calibration: Calibration) -> Figure:
    """Accuracy on what nobody reviews against the share referred, and how sites' sets are covered."""
    figure, (left, right) = panels(2, WIDE, 2.9)
    left.plot(calibration.referred, calibration.accuracy, color=COLOURS[0])
    left.axhline(calibration.wanted.accuracy, color=RED, linestyle="--", linewidth=1)
    left.set(title="Accuracy of what is not referred", xlabel="share referred, the least confident first", xlim=(0, 1))
    right.hist(calibration.sites, bins=np.linspace(0, 1, 21).tolist(), color=COLOURS[0], alpha=0.75)
    right.axvline(1 - calibration.wanted.alpha, color=RED, linestyle="--", linewidth=1)
    right.set(title=f"Coverage of sets by site, {calibration.other}", xlabel="share of truths in the set")
    right.set_ylabel("sites")
    return figure
