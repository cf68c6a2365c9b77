"""The command `fedjax-mri convert`: reads, translates and writes files; a bad file costs one line, not the rest."""

import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_mri.convert import stream
from fedjax_mri.convert.stream import PreparedScan
from fedjax_mri.convert.translate import Translator
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data.files import discover, notes, results, series
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.files.read import read_scan
from fedjax_mri.data.files.scan import Conversion, File, Item, Limits, Scan
from fedjax_mri.data.files.units import check_units

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What the flags of `convert` may change."""

    batch: int = 8  # slices that the model is shown at a time
    ct_offset: float | None = None  # added to a CT whose file does not state HU; None: it must be in HU
    limits: Limits = field(default_factory=Limits)


class Job(NamedTuple):
    """All that the command needs beside its files."""

    translator: Translator
    conversion: Conversion
    out: Path
    force: bool
    samples: int  # draws; 0: the model's own image, and no standard deviation
    settings: Settings


def prepare(
    translator: Translator, to: str, out: Path, force: bool = False, samples: int = 0, settings: Settings | None = None
) -> Job:
    """Returns the job of making the modality `to`, "ct" or "mr".

    Raises UserError on settings that the model cannot follow.
    """
    settings = settings or Settings()
    if settings.batch < 1:
        raise UserError(f"--batch {settings.batch}: give 1 or more")
    if samples and translator.samples < 2:
        raise UserError(f"--samples {samples}: {translator.name} has one model, which always says the same; leave it")
    if samples and not 2 <= samples <= translator.samples:
        raise UserError(f"--samples {samples}: give 2 to {translator.samples}, the draws that {translator.name} has")
    source = {"ct": "mr", "mr": "ct"}[to]
    conversion = Conversion(source, to, translator.window, translator.name, uuid.uuid4())
    return Job(translator, conversion, out, force, samples, settings)


def convert(job: Job, files: Sequence[File], say: Say, step: Callable[[int], None]) -> tuple[int, int]:
    """Converts files, and returns how many were converted and how many refused.

    Each refusal is a line to `say`, and so is the first of all equal notes; `step` is called with a number of files.

    Raises UserError where results cannot be written.
    """
    done = {True: 0, False: 0}
    noted: Counter[str] = Counter()

    def count(item: Item, converted: bool) -> None:
        done[converted] += len(item.paths)
        step(len(item.paths))

    def refuse(item: Item, error: UserError) -> None:
        say(f"{title(item)}: {error}")
        count(item, False)

    items, lines = series.items(files, whole=False)
    for line in lines:
        say(line)
    model = stream.batch_model(job.translator, job.conversion, job.samples)
    for item, scan, made in stream.translate_scans(readable(job, items, refuse), model, job.settings.batch):
        try:
            contents = encoded(job, scan, made)
        except UserError as error:
            refuse(item, error)
            continue
        finally:
            made.clear()  # a volume may be large, and the next is read while this loop still holds it
        for target, content in zip(targets(job, item), contents, strict=True):
            results.write(target, content, "--out")
        del contents
        notes.say_new(say, title(item), scan.notes, noted)
        count(item, True)
    notes.say_more(say, noted)
    return done[True], done[False]


def title(item: Item) -> str:
    """Returns the file of an item, or the folder and number of its files, in a line to the user."""
    first, count = item.paths[0], len(item.paths)
    return printable(first) if count == 1 else f"{printable(first.parent)}: series of {count} images"


def readable(
    job: Job, items: Sequence[Item], refuse: Callable[[Item, UserError], None]
) -> Iterator[tuple[Item, PreparedScan]]:
    """Yields the scans that can be converted; the others are refused."""
    claimed: set[Path] = set()
    for item in items:
        try:
            check_targets(job, item, claimed)
            scan = ready(job, item)
        except UserError as error:
            refuse(item, error)
            continue
        claimed |= set(targets(job, item))
        yield item, scan


def ready(job: Job, item: Item) -> PreparedScan:
    """Returns a scan as the model takes it. Raises UserError where it cannot be converted."""
    return as_model_takes(job, source(job, item))


def source(job: Job, item: Item) -> Scan:
    """Returns the scan of an item. Raises UserError where it cannot be converted."""
    scan = read_scan(item, job.conversion.source, job.settings.limits, job.settings.ct_offset)
    check_units(scan, job.conversion)
    return scan


def as_model_takes(job: Job, scan: Scan) -> PreparedScan:
    """Returns a scan as the model takes it, with what writing a result needs."""
    height, width, _ = job.translator.image
    return stream.prepare_scan(scan, job.conversion, (height, width))


def targets(job: Job, item: Item) -> list[Path]:
    """Returns the paths of an item's results: its images, and their standard deviations where there are draws."""
    names = [*item.names, *(map(discover.deviation, item.names) if job.samples else ())]
    return [discover.absolute(job.out / name) for name in names]


def check_targets(job: Job, item: Item, claimed: set[Path]) -> None:
    """Raises UserError where writing the results would overwrite a file that is to be kept."""
    for target in targets(job, item):
        if target.exists() and any(path.exists() and target.samefile(path) for path in item.paths):
            raise UserError("would be overwritten by its own result: choose another --out")
        if target in claimed:
            raise UserError(f"another input gives {printable(target)} as well: convert it on its own")
        if target.exists() and not job.force:
            raise UserError(f"{printable(target)} is there: give --force to overwrite it, or another --out")


def encoded(job: Job, scan: PreparedScan, made: Sequence[np.ndarray]) -> list[bytes]:
    """Returns the contents of the files to be written. Raises UserError where they cannot be of the source's kind."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of encoders, which name no file
            return [
                content
                for place, values in enumerate(made)
                for content in scan.encode(job.conversion, values, place > 0)
            ]
    except Exception as error:  # an encoder fails in open-ended ways, and none may stop the rest
        raise UserError(
            f"cannot be written as its own kind ({type(error).__name__}: {short_message(error)})"
        ) from error
