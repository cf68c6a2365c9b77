"""Jobs that explain: what a classifier says of images and why, and which source pixels moved a part of a made image."""

import functools
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_mri.convert import command as convert
from fedjax_mri.convert import region as regions
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import resample
from fedjax_mri.data.files.scan import File
from fedjax_mri.explain import command, inputs, pages, triage, words
from fedjax_mri.explain.command import InputImage
from fedjax_mri.explain.pages import Patient
from fedjax_mri.report import overlays
from fedjax_mri.serve import converting, scheduler, views
from fedjax_mri.serve.scheduler import Worker, WorkItem
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.store import Request
from fedjax_mri.xai import methods

PAGE = "page.html"


@functools.lru_cache(converting.MODELS)
def load(run: Path, settings: Settings, changed: int) -> tuple[command.Job, list[str]]:
    """Returns what `explain` needs of a run, kept until the run has changed, and lines on what it lacks."""
    chosen, lines = command.Settings(batch=settings.batch, limits=settings.limits, measures=False), list[str]()
    return command.prepare([run], settings.methods.split(","), run / "explain", lines.append, True, None, chosen), lines


def explain(worker: Worker, request: Request, given: Iterator[WorkItem]) -> None:
    """Explains images, whichever jobs of this run they belong to."""
    run = scheduler.run_folder(worker, request.run)
    job, lines = load(run, worker.settings, converting.last_change(run))
    while group := list(islice(given, worker.settings.batch)):
        scheduler.hold(worker, group)
        images: list[tuple[WorkItem, InputImage]] = []
        for work in group:
            reader = job.reader._replace(ct_offset=work.job.request.ct_offset)
            file = File(work.item.paths[0], work.item.names[0])
            try:
                images.append((work, InputImage(file, inputs.image(reader, file.path)[0], None)))
            except Exception as error:  # of one file, and no reason to stop the others
                scheduler.refuse(worker, work, error)
        patients = command.explain_batch(job, [image for _, image in images]) if images else ()
        for (work, _), patient in zip(images, patients):
            try:
                notes = [scheduler.public(work.job, line) for line in lines]
                scheduler.finish(work, {**show(job, work, patient), "notes": notes})
            except Exception as error:
                scheduler.refuse(worker, work, error)


def show(job: command.Job, work: WorkItem, patient: Patient) -> dict[str, Any]:
    """Writes the picture, maps and page of an explained image, and returns what the job's page says of it."""
    folder, verdict, trained = work.job.folder / "out" / str(work.number), patient.verdict, job.trained
    folder.mkdir(exist_ok=True)
    image = patient.image
    disk.write_bytes(folder / "image.png", views.png(image, (1, 1), float(image.min()), float(image.max())))
    for name, found in patient.maps.items():
        disk.write_bytes(folder / f"{name}.png", overlays.layer(found))
    pages.write_patient(folder / PAGE, trained, patient, job.calibration, listed=False)
    return {
        "state": "done",
        "prediction": trained.classes[verdict.prediction],
        "meaning": words.meaning(trained.classes[verdict.prediction]),
        "confidence": verdict.confidence,
        "set": None if verdict.prediction_set is None else triage.possible_classes(verdict, trained.classes),
        "reasons": verdict.reasons,
        "sentences": [*map(str, pages.prediction(trained, verdict, job.calibration)), *patient.words],
        "classes": sorted(zip(trained.classes, verdict.probabilities.tolist()), key=lambda pair: -pair[1]),
        "maps": {name: methods.title(name) for name in patient.maps},
        "caveat": pages.CAVEAT,
    }


def explain_regions(worker: Worker, request: Request, given: Iterator[WorkItem]) -> None:
    """Explains regions of made images: which pixels of their sources moved them."""
    prepared = converting.prepare(worker, request)
    for work in given:
        scheduler.hold(worker, [work])
        try:
            scheduler.finish(work, explain_region(converting.of_job(prepared, work.job), work))
        except Exception as error:
            scheduler.refuse(worker, work, error)


def explain_region(job: convert.Job, work: WorkItem) -> dict[str, Any]:
    """Explains which pixels of a slice moved a box of what is made of it, on the slice's own grid.

    Writes the map, and returns what the page says of it.
    """
    asked = work.job.request.region or {}
    scan, at = convert.source(job, work.item), int(asked["at"])
    if at >= len(scan.voxels):
        raise UserError(f"slice {at}: the scan has {len(scan.voxels)}")
    ready = convert.as_model_takes(job, scan)
    box = np.zeros(ready.shape, np.float32)
    rows, columns = (slice(*(round(share * size) for share in asked[axis])) for axis, size in zip("yx", box.shape))
    box[rows, columns] = 1
    inside = resample.fit(box, ready.slices.shape[1:], 0.0, ready.pixel) >= 0.5
    found = regions.explain(job.translator, job.conversion.to, ready.slices[at], inside, asked["method"])
    own = np.asarray(resample.unfit(found, ready.shape, ready.pixel))
    folder = work.job.folder / "out" / str(work.number)
    folder.mkdir(exist_ok=True)
    disk.write_bytes(folder / "map.png", overlays.layer(own))
    share = float(np.abs(own)[box > 0].sum() / max(float(np.abs(own).sum()), 1e-30))
    sentence = (
        f"{methods.title(asked['method'])}: {words.percent(share)} of what moved the mean of the box lies inside of "
        f"the box itself, {words.percent(1 - share)} around it."
    )
    return {"state": "done", "sentence": sentence, "at": at, **asked}
