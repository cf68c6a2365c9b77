"""The command `fedjax-mri explain`: predicts, explains and measures images; a bad file costs one line, not the rest."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk, fields
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import Seed
from fedjax_mri.data.files import discover, notes
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.files.scan import File, Limits
from fedjax_mri.explain import inputs, maps, model, out_of_distribution, pages, triage, words
from fedjax_mri.explain.inputs import Reader
from fedjax_mri.explain.maps import Explainer, Say
from fedjax_mri.explain.model import Trained
from fedjax_mri.explain.out_of_distribution import OODReference
from fedjax_mri.explain.pages import PAGE, Patient
from fedjax_mri.explain.triage import Calibration, Requirements
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
    seed: Seed = 0  # of methods that draw
    ct_offset: float | None = None  # added to a CT whose file does not state HU; None: it must be in HU
    limits: Limits = field(default_factory=Limits)
    measures: bool = True  # of each map, which take far longer than the maps

    def __post_init__(self) -> None:
        fields.check(self)
        for name, good in (
            ("batch", self.batch >= 1),
            ("alpha", 0 < self.alpha < 1),
            ("accuracy", 0 < self.accuracy <= 1),
        ):
            if not good:
                raise UserError(f"--{name} {getattr(self, name)}: give 1 or more images, shares between 0 and 1")


class InputImage(NamedTuple):
    """An image that has been read."""

    file: File
    image: np.ndarray  # float32 [H, W, C]
    lesion: np.ndarray | None  # float32 [S, S], where masks were given


class Job(NamedTuple):
    """All that the command needs beside its files."""

    trained: Trained
    explainers: list[Explainer]
    reader: Reader
    calibration: Calibration | None
    ood_reference: OODReference
    strongest: dict[str, float]  # method -> the strongest response to the test images that the run has kept
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
    """Returns the job of explaining images by a run, or by an ensemble.

    Raises UserError where nothing can be explained.
    """
    settings = settings or Settings()
    check_out(out, force)
    trained = model.load(runs)
    explainers = maps.explainers(trained, names, say)
    reader = inputs.reader(trained, settings.limits, settings.ct_offset)
    calibration = triage.calibrate(runs, Requirements(settings.alpha, settings.accuracy), say)
    energies, strongest = reference_responses(trained, explainers, settings)
    ood_reference = OODReference(results.reference(runs[0]), energies)
    if ood_reference.reference is None:
        say(f"{printable(runs[0])}: has not kept what its images look like, so unlike ones are judged by their energy "
            "alone; `fedjax-mri train` with the same config and --out adds it")  # fmt: skip
    return Job(trained, explainers, reader, calibration, ood_reference, strongest, masks, out, force, settings)


def check_out(out: Path, force: bool) -> None:
    """Raises UserError where writing would overwrite results that are to be kept."""
    for name in (PAGE, TABLE):
        if (out / name).exists() and not force:
            raise UserError(f"{printable(out / name)} is there: give --force to overwrite it, or another --out")


def reference_responses(
    trained: Trained, explainers: Sequence[Explainer], settings: Settings
) -> tuple[np.ndarray, dict[str, float]]:
    """Returns energies [m] of the test images that the run has kept, and each method's strongest response to them.

    Where it has kept no images, m and all responses are 0.
    """
    kept = kept_images(trained.runs[0])
    logits, strongest = [np.zeros((0, len(trained.classes)), np.float32)], {one.name: 0.0 for one in explainers}
    for start in range(0, len(kept), settings.batch):
        part = kept[start : start + settings.batch]
        x, scores = preprocess_and_predict(trained, part, settings.batch)
        logits.append(np.asarray(scores)[: len(part)])
        for one in explainers if settings.measures else ():
            found = one.maps(trained.models, x, scores.argmax(1), jax.random.key(settings.seed))
            strongest[one.name] = max(strongest[one.name], float(found[: len(part)].max()))
    return np.asarray(outliers.energy(jnp.asarray(np.concatenate(logits)))), strongest


def kept_images(run: Path) -> np.ndarray:
    """Returns the test images that a run has kept, [m, H, W, C] as read; m is 0 where it has kept none."""
    try:
        examples = results.examples(run)
    except UserError:  # the calibration, which reads the same file, says so
        examples = None
    return np.zeros((0, 1, 1, 1), np.float32) if examples is None else examples.image


def preprocess_and_predict(trained: Trained, images: np.ndarray, batch: int) -> tuple[jax.Array, jax.Array]:
    """Returns images [n, H, W, C] as the network sees them, and their logits, [batch, ...].

    The last image is repeated.
    """
    x = trained.preprocess(filled(images, batch))
    return x, trained.predict(trained.models, x)


def describe(trained: Trained, images: np.ndarray, batch: int) -> dict[str, jax.Array]:
    """Returns descriptions [n, d] of images [n, H, W, C] as read, by kind; of an ensemble those by its first run."""
    found = trained.describe(trained.models[0], filled(images, batch))
    return {kind: values[: len(images)] for kind, values in found.items()}


def filled(images: np.ndarray, batch: int) -> jax.Array:
    """Returns images [batch, H, W, C] of which the last is repeated, from [n, H, W, C]."""
    return jnp.asarray(np.pad(images, [(0, batch - len(images)), *[(0, 0)] * 3], mode="edge"))


def explain(job: Job, files: Sequence[File], say: Say, step: Callable[[], None]) -> tuple[int, int]:
    """Explains files, and returns how many were explained and how many refused.

    Each refusal is a line to `say`, and so is the first of all equal notes; `step` is called after each file.

    Raises UserError where results cannot be written.
    """
    refused: list[File] = []
    noted: Counter[str] = Counter()

    def refuse(file: File, error: UserError) -> None:
        say(f"{printable(file.path)}: {error}")
        refused.append(file)
        step()

    patients: list[Patient] = []
    readable = iter(read(job, files, refuse, lambda file, said: notes.say_new(say, printable(file.path), said, noted)))
    while group := list(islice(readable, job.settings.batch)):
        for one in explain_batch(job, group):
            write(job, one)
            patients.append(one)
            step()
    notes.say_more(say, noted)
    if patients:
        write_summary(job, patients)
    return len(patients), len(refused)


def read(
    job: Job,
    files: Sequence[File],
    refuse: Callable[[File, UserError], None],
    note: Callable[[File, Sequence[str]], None],
) -> Iterator[InputImage]:
    """Yields the images that can be explained; the others are refused."""
    for file in files:
        try:
            check_target(job, file)
            image, said = inputs.image(job.reader, file.path)
            size = jax.eval_shape(job.trained.preprocess, jnp.asarray(image[None])).shape[1:3]
            lesion = None if job.masks is None else inputs.mask(job.reader, mask_of(job.masks, file), size)
        except UserError as error:
            refuse(file, error)
            continue
        note(file, said)
        yield InputImage(file, image, lesion)


def check_target(job: Job, file: File) -> None:
    """Raises UserError where writing would overwrite results that are to be kept."""
    target = discover.absolute(job.out / file.name)
    if target.exists() and not target.is_dir():
        raise UserError(f"{printable(target)} is a file, where a folder of results would go: choose another --out")
    if target.exists() and not job.force:
        raise UserError(f"{printable(target)} is there: give --force to overwrite it, or another --out")


def mask_of(masks: Path, file: File) -> Path:
    """Returns the path of a file's mask: a PNG of the same name, below the folder of masks."""
    return (masks / file.name).with_suffix(".png")


def explain_batch(job: Job, group: Sequence[InputImage]) -> Iterator[Patient]:
    """Explains at most `batch` images, and yields each with its prediction, maps, measures and words."""
    trained, batch = job.trained, job.settings.batch
    images = np.stack([one.image for one in group])
    x, logits = preprocess_and_predict(trained, images, batch)
    pictures = np.asarray(x).mean(-1)
    heads = np.stack([words.head(picture) for picture in pictures])
    found = out_of_distribution.detect_ood(
        job.ood_reference, images, logits[: len(group)], describe(trained, images, batch)
    )
    verdicts = triage.verdicts(logits, job.calibration, found, trained.classes)
    lesions = lesion_batch(group, pictures.shape)
    by_method = {one.name: maps_and_measures(job, one, x, logits.argmax(1), heads, lesions) for one in job.explainers}
    for place, one in enumerate(group):
        drawn = {method: of_method[place] for method, (of_method, _) in by_method.items()}
        yield Patient(
            name=one.file.name.as_posix(),
            image=pictures[place],
            verdict=verdicts[place],
            maps=drawn,
            figures={
                method: {name: float(values[place]) for name, values in measured.items()}
                for method, (_, measured) in by_method.items()
            },
            words=sentences(trained.classes[verdicts[place].prediction], drawn, heads[place]),
            lesion=one.lesion,
        )


def sentences(name: str, drawn: Mapping[str, np.ndarray], head: np.ndarray) -> list[str]:
    """Returns a sentence for each method on what its map covers, for the class `name`."""
    return [words.sentence(methods.title(method), name, words.coverage(found, head)) for method, found in drawn.items()]


def maps_and_measures(
    job: Job, one: Explainer, x: jax.Array, target: jax.Array, heads: np.ndarray, lesions: np.ndarray | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the maps [B, H, W] of one method, and their measures [B]."""
    key = jax.random.key(job.settings.seed)
    found = one.maps(job.trained.models, x, target, key)
    if not job.settings.measures:
        return np.asarray(found), {}
    scale = jnp.float32(job.strongest[one.name] or jnp.nan)
    figures = one.measures(job.trained.models, x, target, key, found, jnp.asarray(heads), scale)
    if lesions is not None:
        figures |= measures.against_mask(found, jnp.asarray(lesions))
    return np.asarray(found), {name: np.asarray(figures[name]) for name in maps.ORDER if name in figures}


def lesion_batch(group: Sequence[InputImage], shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the true lesions [B, H, W] of a batch; None where they are not known."""
    if group[0].lesion is None:
        return None
    masks = np.zeros(shape, np.float32)
    masks[: len(group)] = [one.lesion for one in group]
    return masks


def write(job: Job, one: Patient) -> None:
    """Writes an image's folder: page, overlays and raw maps. Raises UserError where the file system refuses."""
    home = job.out / one.name
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name, found in one.maps.items():
            disk.write_bytes(home / f"{name}.png", encoded(overlays.overlay(one.image, found, methods.title(name))))
            disk.write_bytes(home / f"{name}.npy", raw(found))
        pages.write_patient(home / PAGE, job.trained, one, job.calibration)
    except OSError as error:
        raise UserError(f"{printable(home)}: cannot be written: {error.strerror}; free space, or check --out") from None


def raw(found: np.ndarray) -> bytes:
    """Returns the bytes of a .npy file that holds a map."""
    file = io.BytesIO()
    np.save(file, found.astype(np.float32), allow_pickle=False)
    return file.getvalue()


def write_summary(job: Job, patients: Sequence[Patient]) -> None:
    """Writes the table of measures, and the page that lists all images."""
    names = list(next(iter(patients[0].figures.values())))
    heading = ["image", "prediction", "confidence", "set", "unlike p", "review", "method", *names]
    lines = [line for one in patients for line in rows(job.trained, one)]
    disk.write_text(job.out / TABLE, comma_separated([heading, *lines]))
    pages.write_index(job.out / PAGE, job.trained, patients, job.calibration)


def rows(trained: Trained, one: Patient) -> Iterator[list[Any]]:
    """Yields the lines of the table for one image, one for each method."""
    verdict = one.verdict
    possible = " or ".join(triage.possible_classes(verdict, trained.classes))
    told = [trained.classes[verdict.prediction], verdict.confidence, possible, verdict.ood.p]
    for method, figures in one.figures.items():
        yield [one.name, *told, "; ".join(verdict.reasons), method, *figures.values()]
