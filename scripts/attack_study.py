"""Measures what attackers get from a federated run under several defences, on the phantom (synthetic).

    python scripts/attack_study.py

Time: see docs/attacks.md. Hospitals of the phantom at 32 px train a small CNN. Membership: an over-fitted classifier,
alone and defended; 16 shadow models, each attacked with the others. Inversion: the first update of a hospital that
holds 1, 4 or 16 images. Another defence is a flag: --also "clip=--fed.uplink.stages clip".
Writes studies/results/attack_membership.csv and attack_inversion.csv, docs/attack_membership.png and
docs/attack_inversion.png.
"""

import argparse
import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from fedjax_mri.attack import command, pool, shadow, trial
from fedjax_mri.attack.findings import Scored
from fedjax_mri.attack.inversion import Matching
from fedjax_mri.attack.trial import Trial
from fedjax_mri.core import disk, environment
from fedjax_mri.data import check
from fedjax_mri.data.contract import DataDescription, Federation
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.report.figures import COLOURS, RED, STYLE, WIDE, panels
from fedjax_mri.run import config as configs
from fedjax_mri.run.assemble import describe, with_fixed_noise
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

HOME = Path(__file__).parent.parent
RESULTS, DOCS = HOME / "studies" / "results", HOME / "docs"
HOSPITALS, PATIENTS = 8, 16  # patients that train at a hospital; as many are held out
SYNTHETIC = "synthetic data"
Change = Callable[[Experiment], Experiment]


def flags(words: str) -> Change:
    """Returns a change of a config by flags of the command line."""
    return lambda config: configs.override(config, words.split())


COMPRESSED = flags("--fed.uplink.stages topk --uplink.stages.0.share 0.01")  # with error feedback
PRIVATE = {
    "client privacy, epsilon 8": flags("--fed.privacy client --privacy.epsilon 8"),
    "local privacy, epsilon 8": flags("--fed.privacy local --privacy.epsilon 8"),
    "patient privacy, epsilon 8": flags("--fed.privacy patient --privacy.unit image --privacy.epsilon 8"),
}
AGAINST_MEMBERSHIP: dict[str, Change] = {
    "nothing (over-fitted)": lambda config: config,
    "a quarter of the rounds": flags("--rounds 10"),
    "top-k, 1 %": COMPRESSED,
    **PRIVATE,
}


class Attacked(NamedTuple):
    """Shadow models under one defence."""

    scored: dict[str, Scored]  # by attack
    inner: float  # accuracy on the patients that a model was trained on
    outer: float  # and on the others
    seconds: float  # of training all


ALONE, SUM = 1, HOSPITALS  # hospitals whose update the attacker sees


class Guard(NamedTuple):
    """A defence against gradient inversion."""

    change: Change = lambda config: config
    seen: int = ALONE


AGAINST_INVERSION = {
    "nothing, linear model": Guard(lambda config: replace(config, task=Classify(network=LinearSettings()))),
    "nothing": Guard(),
    "3 local steps": Guard(flags("--local.epochs 3")),
    "top-k, 1 %": Guard(COMPRESSED),
    **{name: Guard(change) for name, change in PRIVATE.items()},
    "secure sum of 8 hospitals": Guard(seen=SUM),
}
MEMBERSHIP_COLUMNS = (
    "defence", "accuracy in", "accuracy out", "attack", "AUC", "false positives", "found", "low", "high",
)  # fmt: skip
INVERSION_COLUMNS = (
    "defence", "images", "trials", "PSNR", "SSIM", "PSNR grey", "PSNR mean", "SSIM mean", "labels",
)  # fmt: skip
BATCHES = {1: 2, 4: 1, 16: 1}  # images of a hospital -> trials
MANY, FEWER = 4, 0.2  # for so many images or more the search takes this share of the steps
LEAST = 0.03  # %, where the axes of the figure begin
MOST = 32  # images behind one change of the model


def main() -> None:
    """Runs the parts that are asked for; both by default."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--only", choices=("membership", "inversion"))
    words.add_argument("--shadows", type=int, default=16)
    words.add_argument("--steps", type=int, default=1500, help="of the search for images")
    words.add_argument("--also", action="append", default=[], metavar="NAME=FLAGS", help="another defence")
    given = words.parse_args()
    environment.prepare_jax()
    also = {name: flags(text) for name, _, text in (one.partition("=") for one in given.also)}
    if given.only != "inversion":
        membership({**AGAINST_MEMBERSHIP, **also}, given.shadows)
    if given.only != "membership":
        inversion({**AGAINST_INVERSION, **{name: Guard(change) for name, change in also.items()}}, given.steps)


def base(network: CNNSettings, **more: Any) -> Experiment:
    """Returns the run that is attacked."""
    sites = replace(SiteModel(), patients_mean=float(PATIENTS), patients_min=PATIENTS, patients_max=PATIENTS)
    data = Phantom(
        clients=HOSPITALS,
        test_clients=HOSPITALS,
        test_patients=PATIENTS,
        validation_patients=0,
        sites=sites,
        lesions=LesionModel(size=1.5, contrast=1.5),
    )
    settings = {"rounds": 40, "evaluate_every": 40, "plan": Plan(tune_s=0), "sampling": Everyone(), **more}
    return Experiment(data=Precomputed(data), task=Classify(network=network), **settings)


def halved(federation: Federation) -> Federation:
    """Returns a federation whose images have half as many pixels along each side, means over 2 x 2."""

    def half(data: Any) -> Any:
        images = np.asarray(data.store.fields["image"], np.float32)[: data.sizes.sum()]
        n, height, width, channels = images.shape
        means = images.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
        fields = {"image": np.rint(means).astype(np.uint8), "label": data.store.fields["label"][: len(images)]}
        return resident(fields, np.split(np.arange(n), np.cumsum(data.sizes)[:-1]))

    tests = {name: test._replace(data=half(test.data)) for name, test in federation.tests.items()}
    return federation._replace(train=half(federation.train), tests=tests, image=None)


def prepared(config: Experiment) -> tuple[Federation, DataDescription, pool.Pool]:
    """Returns the data of a config at 32 px, what is known of them, and their patients."""
    federation = halved(check.build_source(config.data, config.seed))
    return federation, describe(federation), pool.gather(federation, ("image", "label"))


def membership(defences: dict[str, Change], shadows: int) -> None:
    """Attacks an over-fitted classifier under each defence; writes the table and the figure after each."""
    config = base(CNNSettings(widths=(16, 32, 32)), local=LocalTraining(epochs=2, batch=8, learning_rate=2e-3))
    federation, described, patients = prepared(config)
    inside = shadow.halves(shadows, len(patients.member), np.random.default_rng(0))
    found = dict[str, Attacked]()
    for name, change in defences.items():
        begin = time.perf_counter()
        classifier, models = shadow.trained_models(
            with_fixed_noise(change(config), described, federation.train),
            described,
            patients,
            inside,
            federation.train,
            lambda line: None,
        )
        seconds = time.perf_counter() - begin
        right = correct(shadow.logits_of(classifier, models, patients.fields["image"]), patients)
        scored = command.against_each(shadow.confidences(classifier, models, patients), inside)
        found[name] = Attacked(scored, float(right[inside].mean()), float(right[~inside].mean()), seconds)
        print(f"{name}: {shadows} shadow models in {seconds:.0f} s", flush=True)
        rows = membership_rows(found)
        write_csv(RESULTS / "attack_membership.csv", MEMBERSHIP_COLUMNS, rows)
        save(DOCS / "attack_membership.png", partial(membership_figure, rows))
    one_after_another(config, described, patients, inside, federation, next(iter(found.values())).seconds)


def membership_rows(found: dict[str, Attacked]) -> list[tuple[object, ...]]:
    """Returns the rows of the table: one for each defence, attack and rate of false positives."""
    return [
        (name, each.inner, each.outer, attack, one.success.auc, d.asked, d.rate, d.low, d.high)
        for name, each in found.items()
        for attack, one in each.scored.items()
        for d in one.success.detections
    ]


def one_after_another(
    config: Experiment, described: DataDescription, patients: pool.Pool, inside: np.ndarray, federation: Federation,
    together: float,
) -> None:  # fmt: skip
    """Prints how much longer shadow models take that are each a program of their own; three are measured."""
    begin = time.perf_counter()
    for one in inside[:3]:
        shadow.trained_models(config, described, patients, one[None], federation.train, lambda line: None)
    each = (time.perf_counter() - begin) / 3
    print(f"{len(inside)} shadow models: {together:.0f} s as one program, {each * len(inside):.0f} s one after another "
          f"({each:.1f} s each): {each * len(inside) / together:.1f} times as long")  # fmt: skip


def correct(logits: np.ndarray, patients: pool.Pool) -> np.ndarray:
    """Returns whether models [M, n, C] are right on each image, bool [M, n]; here each patient has one image."""
    order = np.argsort(patients.patient)
    return (logits.argmax(-1) == patients.fields["label"])[:, order]


def inversion(defences: dict[str, Guard], steps: int) -> None:
    """Attacks first updates under each defence, and writes the table and the figure."""
    local = LocalTraining(epochs=1, batch=64, optimizer="optax.sgd", learning_rate=0.1)
    config = base(CNNSettings(widths=(16, 32), norm="none"), local=local)
    _, described, patients = prepared(config)
    others = patients.fields["image"][~patients.member[patients.patient]]
    found = dict[str, dict[int, list[Trial]]]()
    for name, guard in defences.items():
        found[name] = {}
        for batch, trials in BATCHES.items():
            rng, begin = np.random.default_rng(batch), time.perf_counter()
            if (count := batch * guard.seen) > MOST:
                continue
            several = [command.drawn(patients, count, rng) for _ in range(trials)]
            how = Matching(steps=steps if count < MANY else int(FEWER * steps))
            invert = trial.inverter(guard.change(config), described, several[0], others, guard.seen, how)
            found[name][batch] = [invert(fields) for fields in several]
            psnr = np.mean([one.psnr for one in found[name][batch]])
            print(f"{name}, {batch} images: PSNR {psnr:.1f} dB in {time.perf_counter() - begin:.0f} s", flush=True)
        rows = [(key, n, len(one), *means(one)) for key, each in found.items() for n, one in each.items()]
        write_csv(RESULTS / "attack_inversion.csv", INVERSION_COLUMNS, rows)
        save(DOCS / "attack_inversion.png", partial(inversion_figure, found))


def means(several: Sequence[Trial]) -> list[float]:
    """Returns the means of the figures of trials."""
    each = [(one.psnr, one.ssim, one.constant[0], *one.mean, one.labels) for one in several]
    return np.mean(each, 0).tolist()


def membership_figure(rows: Sequence[Sequence[Any]]) -> Any:
    """Returns a figure of what attacks find under each defence, from the rows of the table: a panel for each rate."""
    figure, axes = panels(2, WIDE, 3.8, sharey=True)
    names, attacks = (list(dict.fromkeys(row[place] for row in rows)) for place in (0, 3))
    for ax, asked in zip(axes, (0.01, 0.001)):
        for number, attack in enumerate(attacks):
            mine = [row[6:] for row in rows if row[3] == attack and float(row[5]) == asked]
            rate, low, high = 100 * np.array(mine, float).T
            places = np.arange(len(mine)) + 0.18 * (number - (len(attacks) - 1) / 2)
            ax.errorbar(
                np.maximum(rate, LEAST), places, xerr=(np.maximum(rate - low, 0), high - rate), fmt="o", markersize=4,
                label=attack, capsize=2,
            )  # fmt: skip
        ax.axvline(100 * asked, color=RED, linestyle="--", linewidth=1)
        ax.set(xscale="log", xlim=(LEAST, 100), yticks=range(len(names)), yticklabels=names)
        ax.set(xticks=(0.1, 1, 10, 100), xticklabels=("0.1", "1", "10", "100"), ylim=(len(names) - 0.5, -0.5))
        ax.minorticks_off()
        ax.set(xlabel="members found, %", title=f"At {100 * asked:g} % false positives ({SYNTHETIC})")
    axes[0].legend(loc="lower right")
    return figure


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *([f"{x:.4f}" if isinstance(x, float) else x for x in row] for row in rows)])
    disk.write_text(path, text.getvalue())


def save(path: Path, draw: Callable[[], Any]) -> None:
    """Writes a figure in the style of the reports."""
    with matplotlib.rc_context(STYLE):
        disk.write_bytes(path, disk.encoded(draw(), 150))
    print(path)


def inversion_figure(found: dict[str, dict[int, list[Trial]]]) -> Any:
    """Returns a figure of one true image and what is found of it, above PSNR by the number of images."""
    figure = matplotlib.figure.Figure(figsize=(WIDE, 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    strip = top.subplots(1, len(found) + 1)
    shown = {"true image": next(iter(found.values()))[1][0].truth[0]}
    shown |= {name: best(each[1][0]) for name, each in found.items()}
    for ax, (name, image) in zip(strip, shown.items()):
        ax.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        ax.set_title(name.replace(", ", ",\n").replace(" of ", "\nof "), fontsize=7, fontweight="normal")
        ax.set_axis_off()
    ax = bottom.subplots()
    for number, (name, each) in enumerate(found.items()):
        colour = COLOURS[number % len(COLOURS)]
        psnr = [np.mean([one.psnr for one in several]) for several in each.values()]
        style = "o-" if number < len(COLOURS) else "s--"
        ax.plot(list(each), np.minimum(psnr, 60), style, color=colour, label=name)
    for name, style in (("constant", ":"), ("mean", "--")):
        cells = {batch: means for each in found.values() for batch, means in each.items()}
        level = np.mean([baseline(one, name) for several in cells.values() for one in several])
        ax.axhline(level, color="#888888", linestyle=style, label="one grey" if name == "constant" else "mean image")
    ax.set(xscale="log", xticks=list(BATCHES), xticklabels=list(map(str, BATCHES)), xlabel="images of the hospital")
    ax.set(ylabel="PSNR, dB (cut at 60)", title=f"Images found in one update ({SYNTHETIC})")
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def baseline(one: Trial, name: str) -> float:
    """Returns the PSNR of a baseline."""
    return getattr(one, name)[0]


def best(one: Trial) -> np.ndarray:
    """Returns the found image that is closest to the first true one."""
    return one.found[np.argmin(((one.found - one.truth[0]) ** 2).mean((1, 2, 3)))]


if __name__ == "__main__":
    main()
