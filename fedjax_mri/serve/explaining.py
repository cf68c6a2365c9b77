"""Jobs that explain: what a classifier says of images and why, and which source pixels moved a part of a made image."""

import functools
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_mri.convert import command as convert
from fedjax_mri.convert import region as regions
from fedjax_mri.convert.translate import Translator
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import resample
from fedjax_mri.data.files.scan import File
from fedjax_mri.explain import command, pages, words
from fedjax_mri.explain.command import InputImage
from fedjax_mri.explain.pages import Patient
from fedjax_mri.report import overlays
from fedjax_mri.serve import converting, pieces, views
from fedjax_mri.serve.pieces import Worker, WorkItem
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.store import Request
from fedjax_mri.xai import methods

PAGE = "page.html"


@functools.lru_cache(converting.MODELS)
def load(run: Path, settings: Settings, changed: int) -> command.Job:
    """What `explain` needs of a run, kept until the run has changed."""
    chosen = command.Settings(batch=settings.batch, limits=settings.limits, measures=False)
    return command.prepare([run], settings.methods.split(","), run / "explain", lambda line: None, True, None, chosen)


def explain(of: Worker, request: Request, given: Iterator[WorkItem]) -> None:
    """Explains images, whichever jobs of this run they belong to."""
    run = pieces.run_folder(of, request.run)
    job = load(run, of.settings, converting.changed(run))
    while group := list(islice(given, of.settings.batch)):
        pieces.hold(of, group)
        images: list[tuple[WorkItem, InputImage]] = []
        for piece in group:
            file = File(piece.item.paths[0], Path(f"{piece.job.id}-{piece.number}"))
            images += [(piece, one) for one in read(of, job, piece, file)]
        patients = command.explain_batch(job, [one for _, one in images]) if images else iter(())
        for (piece, _), patient in zip(images, patients):
            try:
                pieces.finish(of, piece, show(job, piece, patient))
            except Exception as error:
                pieces.refuse(of, piece, error)
        pieces.hold(of, [])


def read(of: Worker, job: command.Job, piece: WorkItem, file: File) -> list[InputImage]:
    """The image of a piece; none where it was refused."""

    def refuse(file: File, error: Exception) -> None:
        pieces.refuse(of, piece, error)

    offset = piece.job.request.ct_offset
    job = job._replace(reader=job.reader._replace(ct_offset=offset))
    try:
        return list(command.read(job, [file], refuse, lambda file, notes: None))
    except Exception as error:  # not foreseen: of one file, and no reason to stop the others
        refuse(file, error)
        return []


def show(job: command.Job, piece: WorkItem, patient: Patient) -> dict[str, Any]:
    """What the page says of an explained image; its picture, maps and page of its own are written."""
    home, verdict, trained = piece.job.folder / "out" / str(piece.number), patient.verdict, job.trained
    home.mkdir(exist_ok=True)
    image = patient.image
    disk.write_bytes(home / "image.png", views.png(image, (1, 1), float(image.min()), float(image.max())))
    for name, found in patient.maps.items():
        disk.write_bytes(home / f"{name}.png", overlays.layer(found))
    named = patient._replace(name=str(piece.item.names[0]))
    pages.write_patient(home / PAGE, trained, named, job.calibration, listed=False)
    members = verdict.prediction_set
    return {
        "state": "done",
        "prediction": trained.classes[verdict.prediction],
        "meaning": words.meaning(trained.classes[verdict.prediction]),
        "confidence": verdict.confidence,
        "set": None if members is None else [name for name, is_in in zip(trained.classes, members) if is_in],
        "reasons": verdict.reasons,
        "sentences": [*map(str, pages.prediction(trained, verdict, job.calibration)), *patient.words],
        "classes": sorted(zip(trained.classes, verdict.probabilities.tolist()), key=lambda pair: -pair[1]),
        "maps": {name: methods.title(name) for name in patient.maps},
        "caveat": pages.CAVEAT,
    }


def region(of: Worker, request: Request, given: Iterator[WorkItem]) -> None:
    """Explains a region of a made image: which pixels of its source moved it."""
    translator = converting.translator_of(of, request)
    for piece in given:
        pieces.hold(of, [piece])
        try:
            pieces.finish(of, piece, explain_region(of, translator, piece))
        except Exception as error:
            pieces.refuse(of, piece, error)
        pieces.hold(of, [])


def explain_region(of: Worker, translator: Translator, piece: WorkItem) -> dict[str, Any]:
    """Which pixels of a slice moved a box of what is made of it, on the slice's own grid."""
    asked = piece.job.request.region or {}
    job = converting.command_job(of, translator, piece.job)
    scan = convert.source(job, piece.item)
    at = int(asked["at"])
    if at >= len(scan.voxels):
        raise UserError(f"slice {at}: the scan has {len(scan.voxels)}")
    prepared = convert.as_model_takes(job, scan)
    box = np.zeros(prepared.shape, np.float32)
    rows, columns = (slice(*(round(share * size) for share in asked[axis])) for axis, size in zip("yx", box.shape))
    box[rows, columns] = 1
    inside = resample.fit(box, prepared.slices.shape[1:], 0.0, prepared.pixel) >= 0.5
    found = regions.explain(translator, piece.job.request.to, prepared.slices[at], inside, asked["method"])
    own = resample.unfit(found, prepared.shape, prepared.pixel)
    home = piece.job.folder / "out" / str(piece.number)
    home.mkdir(exist_ok=True)
    disk.write_bytes(home / "map.png", overlays.layer(own))
    views.save(piece.job.folder / "view", piece.number, "source", scan.voxels[at : at + 1])
    share = float(np.abs(own)[box > 0].sum() / max(float(np.abs(own).sum()), 1e-30))
    sentence = (
        f"{methods.title(asked['method'])}: {words.percent(share)} of what moved the mean of the box lies inside of "
        f"the box itself, {words.percent(1 - share)} around it."
    )
    return {"state": "done", "sentence": sentence, "at": at, "shape": [1, *prepared.shape], **asked}
