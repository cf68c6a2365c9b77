"""Jobs that convert: the files of many jobs go through one model in batches, by the functions of `convert`."""

import functools
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.convert import command, stream, translate
from fedjax_mri.convert.stream import PreparedScan
from fedjax_mri.convert.translate import Translator
from fedjax_mri.core import disk
from fedjax_mri.data.files import discover
from fedjax_mri.data.files.scan import Item
from fedjax_mri.serve import scheduler, store, views
from fedjax_mri.serve.scheduler import Worker, WorkItem
from fedjax_mri.serve.store import Job, Request

MODELS = 4  # that stay in memory


@functools.lru_cache(MODELS)
def load(run: Path, to: str, changed: int) -> Translator:
    """Returns the translator of a run, kept until the run's checkpoints have changed."""
    return translate.translate(run, to)


def last_change(run: Path) -> int:
    """Returns when the checkpoints of a run last changed, in nanoseconds."""
    saved = [path.stat().st_mtime_ns for path in (run / "checkpoints", run / "best" / "checkpoints") if path.exists()]
    return max(saved, default=0)


def prepare(worker: Worker, request: Request) -> command.Job:
    """Returns the job of the command `convert` that does what a request asks for. Raises UserError where none can."""
    run = scheduler.run_folder(worker, request.run)
    translator = load(run, request.to, last_change(run))
    samples = min(request.samples, translator.samples) if translator.samples > 1 else 0
    settings = command.Settings(worker.settings.batch, None, worker.settings.limits)
    return command.prepare(translator, request.to, Path(), True, samples, settings)


def of_job(prepared: command.Job, job: Job) -> command.Job:
    """Returns `prepared` with what a job of the page has of its own; its identifier stays after a restart."""
    return prepared._replace(
        conversion=prepared.conversion._replace(id=uuid.UUID(job.id)),
        settings=replace(prepared.settings, ct_offset=job.request.ct_offset),
    )


class Source(NamedTuple):
    """Holds what is needed of a scan when it has been translated; its voxels take much memory."""

    units: str
    spacing: tuple[float, ...]
    notes: tuple[str, ...]
    window: tuple[float, float]  # level and width


def convert(worker: Worker, request: Request, given: Iterator[WorkItem]) -> None:
    """Converts items, whichever jobs of this run, direction and number of draws they belong to."""
    prepared = prepare(worker, request)
    held: dict[Item, tuple[WorkItem, command.Job, Source]] = {}

    def readable() -> Iterator[tuple[Item, PreparedScan]]:
        for work in given:
            scheduler.hold(worker, [work, *(one for one, _, _ in held.values())])
            try:
                job = of_job(prepared, work.job)
                scan = command.source(job, work.item)
                views.save(work.job.folder / "view", work.number, "source", scan.voxels)
                ready = command.as_model_takes(job, scan)
                window = views.window(scan.units, job.conversion.window, scan.voxels)
            except Exception as error:
                scheduler.refuse(worker, work, error)
                continue
            held[work.item] = work, job, Source(scan.units, scan.spacing, ready.notes, window)
            del scan
            yield work.item, ready

    scans = readable()
    first = list(itertools.islice(scans, 1))
    if not first:
        return
    (work, _, _), slices = held[first[0][0]], len(first[0][1].slices)
    alone = slices == 1 and len(store.queued(worker.home)) == 1 and len(store.unfinished(work.job) or ()) == 1
    batch = 1 if alone else worker.settings.batch
    model = stream.batch_model(prepared.translator, prepared.conversion, prepared.samples)
    for item, scan, images in stream.translate_scans(itertools.chain(iter(first), scans), model, batch):
        first.clear()  # a volume takes much memory
        work, job, source = held.pop(item)
        try:
            for number, content in enumerate(command.encoded(job, scan, images)):
                disk.write_bytes(work.job.folder / "out" / f"{work.number}-{number}", content)
            made = dict(zip(("result", "deviation"), images))
            for kind, values in made.items():
                views.save(work.job.folder / "view", work.number, kind, values)
            scheduler.finish(work, described(work, job, source, made))
        except Exception as error:
            scheduler.refuse(worker, work, error)


def described(work: WorkItem, job: command.Job, source: Source, made: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what the page says of a converted item."""
    conversion = job.conversion
    names = [discover.extended(name, conversion.to) for name in work.item.names]
    names += [discover.deviation(name) for name in names] if job.samples else []
    units = {"result": "hu" if conversion.hounsfield else "share", "deviation": "deviation"}
    windows = {kind: views.window(units[kind], conversion.window, values) for kind, values in made.items()}
    return {
        "state": "done",
        "results": [str(name) for name in names],
        "notes": [scheduler.public(work.job, note) for note in source.notes],
        "shape": next(iter(made.values())).shape,
        "spacing": source.spacing or [1.0, 1.0, 1.0],
        "hounsfield": {"source": source.units == "hu"} | dict.fromkeys(made, conversion.hounsfield),
        "windows": {"source": source.window} | windows,
        "to": conversion.to,
    }
