"""Measures how explanations of the same patients change over rounds, with even and strongly skewed labels (synthetic).

    python scripts/stability_study.py

Time: under ten minutes on 2 cores. Hospitals of the phantom at 64 px train a small CNN by FedAvg, with three seeds for
each kind of labels. The maps of fixed patients with a lesion, from hospitals that took no part, are compared at each
evaluation with the evaluation before, with the last one, between seeds, and with the true lesion. Runs that are
finished in --out are not repeated. Writes studies/results/stability.csv and docs/stability.png.
"""

import argparse
import csv
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.axes
import matplotlib.figure
import numpy as np

from fedjax_mri.core import environment
from fedjax_mri.data.phantom import Phantom, SiteModel
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.procedural import UNSEEN, origin
from fedjax_mri.data.phantom.source import reader
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.explain import rounds
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.report.explanations import over_rounds
from fedjax_mri.report.figures import STYLE, WIDE
from fedjax_mri.run import experiment, results
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.record import Explained
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.xai import measures, stability
from fedjax_mri.xai.methods import title

HOME = Path(__file__).parent.parent
SKEWS = {"IID": 1000.0, "strong skew": 0.1}  # Dirichlet concentration of a hospital's classes
METHODS = ("gradcam", "layercam", "gradinput", "ig", "lrp")
SEEDS, ROUNDS, EVERY, PATIENTS = 3, 60, 10, 32
OTHERS = 1000  # distance of these sites' numbers from the test set's
SHOWN = ("rank correlation to the one before", "rank correlation to the last", "energy inside", "IoU")
ACROSS = " between seeds"


class Size(NamedTuple):
    """How much of the study is done."""

    seeds: int = SEEDS
    rounds: int = ROUNDS
    patients: int = PATIENTS
    clients: int = 20
    each: int = 40  # patients of a hospital


def main() -> None:
    """Trains, explains, compares and draws, and leaves out what is finished."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, default=HOME / "runs" / "stability")
    flags.add_argument("--table", type=Path, default=HOME / "studies" / "results" / "stability.csv")
    flags.add_argument("--figure", type=Path, default=HOME / "docs" / "stability.png")
    for name, value in Size()._asdict().items():
        flags.add_argument(f"--{name}", type=int, default=value)
    words = vars(flags.parse_args())
    out, table, figure = (words.pop(name) for name in ("out", "table", "figure"))
    environment.prepare_jax()
    study(Size(**words), out, table, figure)


def study(size: Size, out: Path, table: Path, figure: Path) -> None:
    """Runs all cells, then writes the table and the figure of all that are finished."""
    found, examples = dict[tuple[str, int], Cell](), None
    for skew, seed in itertools.product(SKEWS, range(size.seeds)):
        run = out / f"{skew.replace(' ', '_')}_{seed}"
        if not (run / results.EXPLANATIONS).exists():
            print(f"{skew}, seed {seed}", flush=True)
            examples = patients(size) if examples is None else examples
            experiment.run(config(size, skew, seed), run)
            results.save_explained(run, rounds.explain(run, METHODS, *examples, print))
        found[skew, seed] = cell(run)
    lines = list(rows(found))
    write(table, lines)
    draw(lines).savefig(figure, dpi=130)
    print(table, figure, sep="\n")


def phantom(size: Size, skew: str) -> Phantom:
    """Hospitals of one size that differ in scanners, and in their mix of classes by `skew`."""
    sites = SiteModel(class_alpha=SKEWS[skew], patients_mean=float(size.each), patients_sigma=0.0, patients_min=1)
    lesions = LesionModel(size=1.5, contrast=1.5, distractors=0.15)
    return Phantom(size.clients, test_clients=20, test_patients=16, sites=sites, lesions=lesions)


def config(size: Size, skew: str, seed: int) -> Experiment:
    """One training, of which every evaluated state is kept."""
    return Experiment(
        name=f"stability, {skew}, seed {seed}",
        seed=seed,
        data=Precomputed(phantom(size, skew)),
        task=Classify(network=CNNSettings(widths=(16, 32, 64))),
        local=LocalTraining(epochs=1, batch=8, learning_rate=2e-3),
        sampling=Uniform(cohort=max(1, size.clients // 2)),
        rounds=size.rounds,
        evaluate_every=min(EVERY, size.rounds),
        plan=Plan(tune_s=0),
        keep=size.rounds,
    )


def patients(size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, classes and masks of patients with a lesion, from hospitals of their own, the same for all cells."""
    model = phantom(size, "IID")
    store = origin(model, 0)._replace(site=np.int32(UNSEEN + OTHERS))
    read, kept = jax.jit(reader(model)), list[dict[str, np.ndarray]]()
    for site in itertools.count():
        batch = jax.device_get(read(store, jnp.int32(site), jnp.arange(8, dtype=jnp.int32)))
        ill = np.flatnonzero(measures.binary(batch["mask"]).any((1, 2, 3)))
        kept += [{name: batch[name][i] for name in ("image", "label", "mask")} for i in ill]
        if len(kept) >= size.patients:
            break
    image, truth, mask = (np.stack([one[name] for one in kept[: size.patients]]) for name in kept[0])
    return image, truth, mask


def cell(run: Path) -> "Cell":
    """Returns the figures of a finished run."""
    record = results.load(run)
    by_round = {line.round: line.tests["unseen sites"].pooled["accuracy"] for line in record.history}
    assert record.explained is not None
    return Cell(record.explained, np.array([by_round[round] for round in record.explained.rounds.tolist()]))


class Cell(NamedTuple):
    """One run of the study."""

    explained: Explained
    accuracy: np.ndarray  # [R], on hospitals that took no part, at each state that was kept


Row = tuple[str, int, int, str, str, float]  # skew, seed, round, method, measure, mean over patients


def rows(found: Mapping[tuple[str, int], Cell]) -> Iterator[Row]:
    """The tidy table: a line for each mean over patients."""
    for (skew, seed), one in found.items():
        for round, value in zip(one.explained.rounds, one.accuracy):
            yield skew, seed, int(round), "", "accuracy", float(value)
        for method in METHODS:
            for measure, values in over_rounds(one.explained, method).items():
                for round, value in zip(one.explained.rounds, values):
                    if not np.isnan(value).all():
                        yield skew, seed, int(round), method, measure, float(np.nanmean(value))
    for skew, method in itertools.product(SKEWS, METHODS):
        yield from between_seeds([one.explained for (which, _), one in found.items() if which == skew], skew, method)


def between_seeds(several: list[Explained], skew: str, method: str) -> Iterator[Row]:
    """Compares the last states of each seed with those of the other seeds."""
    if len(several) < 2:
        return
    last = jnp.asarray(np.stack([one.maps[method][-1] for one in several]))
    for measure, square in stability.agreement(last).items():
        others = np.where(np.eye(len(last), dtype=bool), np.nan, np.asarray(square))
        for seed, row in enumerate(others):
            yield skew, seed, int(several[0].rounds[-1]), method, measure + ACROSS, float(np.nanmean(row))


def write(table: Path, lines: list[Row]) -> None:
    """As CSV, fractions with five digits."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("skew", "seed", "round", "method", "measure", "mean"))
        writer.writerows((*line[:-1], f"{line[-1]:.5g}") for line in lines)


@matplotlib.rc_context(STYLE)
def draw(lines: list[Row]) -> matplotlib.figure.Figure:
    """A row a measure, a column a skew; means over seeds, and from the least to the most of them."""
    figure = matplotlib.figure.Figure(figsize=(WIDE, 2.1 * len(SHOWN)), layout="constrained")
    for measure, axes in zip(SHOWN, figure.subplots(len(SHOWN), len(SKEWS), sharex=True, sharey="row")):
        for skew, ax in zip(SKEWS, axes):
            for method in METHODS:
                line(ax, [one for one in lines if (one[0], *one[3:5]) == (skew, method, measure)], title(method))
            ax.set(title=f"{measure}, {skew}" + ", synthetic")
    for ax in axes:
        ax.set(xlabel="round")
    axes[0].legend(ncols=2)
    return figure


def line(ax: matplotlib.axes.Axes, lines: list[Row], label: str) -> None:
    """One method's curve."""
    places = sorted({one[2] for one in lines})
    values = [[one[5] for one in lines if one[2] == place] for place in places]
    (drawn,) = ax.plot(places, [np.mean(value) for value in values], marker="o", markersize=2.5, label=label)
    ax.fill_between(places, list(map(min, values)), list(map(max, values)), color=drawn.get_color(), alpha=0.15)


if __name__ == "__main__":
    main()
