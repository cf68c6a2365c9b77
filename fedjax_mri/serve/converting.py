"""Jobs that convert: the files of many jobs go through one model in batches, by the functions of `convert`."""

import functools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_mri.convert import command, stream, translate
from fedjax_mri.convert.command import Settings
from fedjax_mri.convert.stream import PreparedScan
from fedjax_mri.convert.translate import Translator
from fedjax_mri.core import disk
from fedjax_mri.data.files import discover
from fedjax_mri.data.files.scan import Item, Scan
from fedjax_mri.serve import pieces, store, views
from fedjax_mri.serve.pieces import Worker, WorkItem
from fedjax_mri.serve.store import Job, Request

MODELS = 4  # that stay in memory
NO_VOXELS = np.zeros((0, 1, 1), np.float32)


@functools.lru_cache(MODELS)
def load(run: Path, to: str, changed: int) -> Translator:
    """The translator of a run, kept until the run's checkpoints have changed."""
    return translate.translate(run, to)


def translator_of(of: Worker, request: Request) -> Translator:
    """The translator that a request asks for. Raises UserError where there is none."""
    run = pieces.run_folder(of, request.run)
    return load(run, request.to, changed(run))


def changed(run: Path) -> int:
    """When the checkpoints of a run last changed."""
    saved = [path.stat().st_mtime_ns for path in (run / "checkpoints", run / "best" / "checkpoints") if path.exists()]
    return max(saved, default=0)


def command_job(of: Worker, translator: Translator, job: Job) -> command.Job:
    """The job of the command `convert` that does what a page's job asks for."""
    request, settings = job.request, of.settings
    chosen = Settings(settings.batch, request.ct_offset, settings.limits)
    samples = min(request.samples, translator.samples) if translator.samples > 1 else 0
    made = command.prepare(translator, request.to, job.folder / "out", True, samples, chosen)
    return made._replace(conversion=made.conversion._replace(id=uuid.UUID(job.id)))  # the same after a restart


def convert(of: Worker, request: Request, given: Iterator[WorkItem]) -> None:
    """Converts items, whichever jobs of this run, direction and number of draws they belong to."""
    translator = translator_of(of, request)
    held: dict[Item, tuple[WorkItem, command.Job, Scan]] = {}

    def readable() -> Iterator[tuple[Item, PreparedScan]]:
        for piece in given:
            pieces.hold(of, [piece, *(one for one, _, _ in held.values())])
            try:
                job = command_job(of, translator, piece.job)
                scan = command.source(job, piece.item)
                views.save(piece.job.folder / "view", piece.number, "source", scan.voxels)
                prepared = command.as_model_takes(job, scan)
            except Exception as error:
                pieces.refuse(of, piece, error)
                continue
            held[piece.item] = piece, job, scan._replace(voxels=NO_VOXELS)  # those of a volume take much memory
            del scan
            yield piece.item, prepared

    first = next(scans := readable(), None)
    if first is None:
        return
    conversion = held[first[0]][1].conversion
    model = stream.batch_model(translator, conversion, held[first[0]][1].samples)
    alone = len(first[1].slices) == 1 and len(store.queued(of.home)) == 1 and len(held[first[0]][0].left) == 1
    batch = 1 if alone else of.settings.batch
    found = stream.translate_scans(_chain(first, scans), model, batch)
    del first
    for item, scan, made in found:
        piece, job, source = held.pop(item)
        try:
            write(piece, job, source, scan, made)
            pieces.finish(of, piece, described(piece, job, source, scan))
        except Exception as error:
            pieces.refuse(of, piece, error)
    pieces.hold(of, [])


def _chain(
    first: tuple[Item, PreparedScan], rest: Iterator[tuple[Item, PreparedScan]]
) -> Iterator[tuple[Item, PreparedScan]]:
    yield first
    del first  # a volume may be large
    yield from rest


def write(piece: WorkItem, job: command.Job, source: Scan, scan: PreparedScan, made: list[np.ndarray]) -> None:
    """Writes the results of an item, and the arrays from which the page draws them."""
    for number, content in enumerate(command.encoded(job, scan, made)):
        disk.write_bytes(piece.job.folder / "out" / f"{piece.number}-{number}", content)
    for kind, values in zip(("result", "deviation"), made):
        views.save(piece.job.folder / "view", piece.number, kind, values)


def described(piece: WorkItem, job: command.Job, source: Scan, scan: PreparedScan) -> dict[str, Any]:
    """What the page says of a converted item."""
    names = [named(name, job.conversion.to) for name in piece.item.names]
    names += [discover.deviation(name) for name in names] if job.samples else []
    conversion = job.conversion
    return {
        "state": "done",
        "results": [str(name) for name in names],
        "notes": [pieces.public(piece.job, note) for note in scan.notes],
        "shape": [len(scan.slices), *scan.shape],
        "spacing": list(source.spacing) or [1.0, 1.0, 1.0],
        "units": {"source": source.units, "result": "hu" if conversion.hounsfield else "share"},
        "window": conversion.window,
        "kinds": ["source", "result", *["deviation"] * bool(job.samples)],
        "to": conversion.to,
    }


def named(name: Path, to: str) -> Path:
    """The name of a result: its source's, with the modality that was made."""
    ending = discover.ending_of(name.name)
    return name.with_name(f"{name.name.removesuffix(ending)}_{to}{ending}")
