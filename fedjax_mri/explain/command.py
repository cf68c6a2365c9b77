"""`fedjax-mri explain`: read, predict, explain, measure, write; one bad file is one line, and the rest goes on."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import discover
from fedjax_mri.data.files.discover import File
from fedjax_mri.data.files.images import shown
from fedjax_mri.data.files.picture import Limits
from fedjax_mri.explain import inputs, maps, model, pages, triage, words
from fedjax_mri.explain.inputs import Reader
from fedjax_mri.explain.maps import Explainer, Say
from fedjax_mri.explain.model import Trained
from fedjax_mri.explain.pages import PAGE, Patient
from fedjax_mri.explain.triage import Calibration, Wanted
from fedjax_mri.metrics import outliers
from fedjax_mri.report import overlays
from fedjax_mri.report.audit_page import comma_separated
from fedjax_mri.report.figures import encoded
from fedjax_mri.run import results
from fedjax_mri.xai import measures, methods

TABLE = "measures.csv"


@dataclass(frozen=True)
class Settings:
    """What the flags of `explain` may change."""

    batch: int = 8  # images that the model is shown at a time
    alpha: float = 0.1  # share of cases in which a set of classes may miss the truth
    accuracy: float = 0.95  # wanted of predictions that nobody reviews
    seed: int = 0  # of methods that draw
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name, good in (("batch", self.batch >= 1), ("alpha", 0 < self.alpha < 1), ("accuracy", self.accuracy > 0)):
            if not good:
                raise UserError(f"--{name} {getattr(self, name)}: give 1 or more images, shares between 0 and 1")


class Read(NamedTuple):
    """One image on its way."""

    file: File
    image: np.ndarray  # float32 [H, W, C]
    lesion: np.ndarray | None  # float32 [S, S], where masks were given


class Job(NamedTuple):
    """One command, but for its files."""

    this: Trained
    explainers: list[Explainer]
    reader: Reader
    calibration: Calibration | None
    energies: np.ndarray  # [m], of the test images that the run has kept
    scales: dict[str, float]  # method -> the strongest response to these
    masks: Path | None
    out: Path
    force: bool
    settings: Settings


def prepare(
    runs: Sequence[Path],
    names: Sequence[str],
    out: Path,
    say: Say,
    force: bool = False,
    masks: Path | None = None,
    settings: Settings | None = None,
) -> Job:
    """The command for a run, or an ensemble of several. Raises UserError where nothing can be explained."""
    settings = settings or Settings()
    check_out(out, force)
    this = model.trained(runs)
    explainers = maps.explainers(this, names, say)
    reader = inputs.reader(this, settings.limits)
    calibration = triage.calibrate(runs, Wanted(settings.alpha, settings.accuracy), say)
    energies, scales = references(this, explainers, settings)
    return Job(this, explainers, reader, calibration, energies, scales, masks, out, force, settings)


def check_out(out: Path, force: bool) -> None:
    """Raises UserError where writing would cost something."""
    for name in (PAGE, TABLE):
        if (out / name).exists() and not force:
            raise UserError(f"{shown(out / name)} is there: give --force to overwrite it, or another --out")


def references(
    this: Trained, explainers: Sequence[Explainer], settings: Settings
) -> tuple[np.ndarray, dict[str, float]]:
    """Energies [m] of the test images that the run has kept, and each method's strongest response to them.

    Where it has kept none: none, and 0.
    """
    kept = few(this.runs[0])
    logits, strongest = [np.zeros((0, len(this.classes)), np.float32)], {one.name: 0.0 for one in explainers}
    for start in range(0, len(kept), settings.batch):
        part = kept[start : start + settings.batch]
        x, scores = seen(this, part, settings.batch)
        logits.append(np.asarray(scores)[: len(part)])
        for one in explainers:
            found = one.maps(this.models, x, scores.argmax(1), jax.random.key(settings.seed))
            strongest[one.name] = max(strongest[one.name], float(found[: len(part)].max()))
    return np.asarray(outliers.energy(jnp.asarray(np.concatenate(logits)))), strongest


def few(run: Path) -> np.ndarray:
    """The test images that a run has kept, [m, H, W, C] as read; m is 0 where it has kept none."""
    nothing = np.zeros((0, 1, 1, 1), np.float32)
    try:
        return results.shown(run).get("image", nothing)
    except UserError:  # said where predictions are asked for
        return nothing


def seen(this: Trained, images: np.ndarray, batch: int) -> tuple[jax.Array, jax.Array]:
    """What the network sees of images [n, H, W, C], and its logits, [batch, ...]; the last is repeated."""
    room = [(0, batch - len(images)), *[(0, 0)] * 3]
    x = this.seen(jnp.asarray(np.pad(images, room, mode="edge")))
    return x, this.answer(this.models, x)


def explain(job: Job, files: Sequence[File], say: Say, step: Callable[[], None]) -> tuple[int, int]:
    """How many files were explained, and how many refused, each with a line to `say`; `step` after each.

    Raises UserError where results cannot be written.
    """
    refused: list[File] = []

    def refuse(file: File, error: UserError) -> None:
        say(f"{shown(file.path)}: {error}")
        refused.append(file)
        step()

    patients: list[Patient] = []
    readable = iter(read(job, files, refuse))
    while group := list(islice(readable, job.settings.batch)):
        for one in looked_at(job, group):
            write(job, one)
            patients.append(one)
            step()
    if patients:
        conclude(job, patients)
    return len(patients), len(refused)


def read(job: Job, files: Sequence[File], refuse: Callable[[File, UserError], None]) -> Iterator[Read]:
    """The images that can be explained; the others are refused."""
    for file in files:
        try:
            check_target(job, file)
            image = inputs.image(job.reader, file.path)
            size = jax.eval_shape(job.this.seen, jnp.asarray(image[None])).shape[1:3]
            lesion = None if job.masks is None else inputs.mask(job.reader, mask_of(job.masks, file), size)
        except UserError as error:
            refuse(file, error)
            continue
        yield Read(file, image, lesion)


def check_target(job: Job, file: File) -> None:
    """Raises UserError where writing would cost something."""
    target = discover.absolute(job.out / file.name)
    if target.exists() and not target.is_dir():
        raise UserError(f"{shown(target)} is a file, where a folder of results would go: choose another --out")
    if target.exists() and not job.force:
        raise UserError(f"{shown(target)} is there: give --force to overwrite it, or another --out")


def mask_of(masks: Path, file: File) -> Path:
    """A PNG of the same name, below the folder of masks."""
    return (masks / file.name).with_suffix(".png")


def looked_at(job: Job, group: Sequence[Read]) -> Iterator[Patient]:
    """Each of at most `batch` images with all that there is to say of it."""
    this, batch = job.this, job.settings.batch
    x, logits = seen(this, np.stack([one.image for one in group]), batch)
    pictures = np.asarray(x).mean(-1)
    heads = np.stack([words.head(picture) for picture in pictures])
    verdicts = triage.verdicts(logits, job.calibration, job.energies, this.classes)
    lesions = lesions_of(group, pictures.shape)
    found = {one.name: explained(job, one, x, logits.argmax(1), heads, lesions) for one in job.explainers}
    for place, one in enumerate(group):
        drawn = {method: pictured[place] for method, (pictured, _) in found.items()}
        yield Patient(
            name=one.file.name.as_posix(),
            image=pictures[place],
            verdict=verdicts[place],
            maps=drawn,
            figures={
                method: {what: float(of[place]) for what, of in all_.items()} for method, (_, all_) in found.items()
            },
            words=told(this.classes[verdicts[place].prediction], drawn, heads[place]),
            lesion=one.lesion,
        )


def told(name: str, drawn: Mapping[str, np.ndarray], head: np.ndarray) -> list[str]:
    """What each method's map covers, in words, for the class `name`."""
    return [words.sentence(methods.title(method), name, words.cover(found, head)) for method, found in drawn.items()]


def explained(
    job: Job, one: Explainer, x: jax.Array, target: jax.Array, heads: np.ndarray, lesions: np.ndarray | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Maps [B, H, W] of one method, and their figures [B]."""
    key = jax.random.key(job.settings.seed)
    found = one.maps(job.this.models, x, target, key)
    scale = jnp.float32(job.scales[one.name] or jnp.nan)
    figures = one.measured(job.this.models, x, target, key, found, jnp.asarray(heads), scale)
    if lesions is not None:
        figures |= measures.against_mask(found, jnp.asarray(lesions))
    return np.asarray(found), {name: np.asarray(figures[name]) for name in maps.ORDER if name in figures}


def lesions_of(group: Sequence[Read], shape: tuple[int, ...]) -> np.ndarray | None:
    """The true lesions [B, H, W], where they are known."""
    if group[0].lesion is None:
        return None
    masks = np.zeros(shape, np.float32)
    masks[: len(group)] = [one.lesion for one in group]
    return masks


def write(job: Job, one: Patient) -> None:
    """A folder of its page, overlays and raw maps. Raises UserError where the disk says no."""
    home = job.out / one.name
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name, found in one.maps.items():
            disk.write_bytes(home / f"{name}.png", encoded(overlays.overlay(one.image, found, methods.title(name))))
            disk.write_bytes(home / f"{name}.npy", raw(found))
        pages.patient(home / PAGE, job.this, one, job.calibration)
    except OSError as error:
        raise UserError(f"{shown(home)}: cannot be written: {error.strerror}; free space, or check --out") from None


def raw(found: np.ndarray) -> bytes:
    """A map as a .npy file."""
    file = io.BytesIO()
    np.save(file, found.astype(np.float32), allow_pickle=False)
    return file.getvalue()


def conclude(job: Job, patients: Sequence[Patient]) -> None:
    """The table of measures, and the page that lists all."""
    names = list(next(iter(patients[0].figures.values())))
    heading = ["image", "prediction", "confidence", "set", "unlike p", "review", "method", *names]
    lines = [line for one in patients for line in rows(job.this, one)]
    disk.write_text(job.out / TABLE, comma_separated([heading, *lines]))
    pages.index(job.out / PAGE, job.this, patients, job.calibration)


def rows(this: Trained, one: Patient) -> Iterator[list[Any]]:
    """A line a method."""
    verdict = one.verdict
    members = [] if verdict.chosen is None else [name for name, is_in in zip(this.classes, verdict.chosen) if is_in]
    unlike = "" if verdict.unlike is None else verdict.unlike
    told = [this.classes[verdict.prediction], verdict.confidence, " or ".join(members), unlike]
    for method, figures in one.figures.items():
        yield [one.name, *told, "; ".join(verdict.reasons), method, *figures.values()]
