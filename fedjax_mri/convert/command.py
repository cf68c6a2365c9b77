"""The command `fedjax-mri convert`: reads, translates and writes files; a bad file costs one line, not the rest."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_mri.convert import stream
from fedjax_mri.convert.translate import Translator
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError, brief
from fedjax_mri.data.files import discover
from fedjax_mri.data.files.discover import File
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.files.read import read
from fedjax_mri.data.files.scan import Conversion, Limits, Scan
from fedjax_mri.data.files.units import check_units


@dataclass(frozen=True)
class Settings:
    """What the flags of `convert` may change."""

    batch: int = 8  # slices that the model is shown at a time
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
    """The job of making the modality `to`, "ct" or "mr". Raises UserError on settings that the model cannot follow."""
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


def convert(job: Job, files: Sequence[File], say: Callable[[str], None], step: Callable[[], None]) -> tuple[int, int]:
    """Converts files, and returns how many were converted and how many refused.

    Each refusal is a line to `say`; `step` is called after each file.

    Raises UserError where results cannot be written.
    """
    done = {True: 0, False: 0}

    def count(converted: bool) -> None:
        done[converted] += 1
        step()

    def refuse(file: File, error: UserError) -> None:
        say(f"{printable(file.path)}: {error}")
        count(False)

    height, width, _ = job.translator.image
    model = stream.batch_model(job.translator, job.conversion, job.samples)
    scans = readable(job, files, refuse)
    for file, scan, made in stream.translate_scans(scans, model, job.conversion, (height, width), job.settings.batch):
        try:
            contents = encoded(job, scan, made)
        except UserError as error:
            refuse(file, error)
            continue
        write(targets(job, file), contents)
        count(True)
    return done[True], done[False]


def readable(job: Job, files: Sequence[File], refuse: Callable[[File, UserError], None]) -> Iterator[tuple[File, Scan]]:
    """Yields the scans that can be converted; the others are refused."""
    claimed: set[Path] = set()
    for file in files:
        try:
            check_targets(job, file, claimed)
            scan = read(file.path, job.conversion.source, job.settings.limits)
            check_units(scan, job.conversion)
        except UserError as error:
            refuse(file, error)
            continue
        claimed |= set(targets(job, file))
        yield file, scan


def targets(job: Job, file: File) -> list[Path]:
    """The paths of a file's results: the image, and the standard deviation where there are draws."""
    names = [file.name, *([discover.deviation(file.name)] if job.samples else [])]
    return [discover.absolute(job.out / name) for name in names]


def check_targets(job: Job, file: File, claimed: set[Path]) -> None:
    """Raises UserError where writing the results would overwrite a file that is to be kept."""
    for target in targets(job, file):
        if target.exists() and file.path.exists() and target.samefile(file.path):
            raise UserError("would be overwritten by its own result: choose another --out")
        if target in claimed:
            raise UserError(f"another input gives {printable(target)} as well: convert it on its own")
        if target.exists() and not job.force:
            raise UserError(f"{printable(target)} is there: give --force to overwrite it, or another --out")


def encoded(job: Job, scan: Scan, made: Sequence[np.ndarray]) -> list[bytes]:
    """The contents of the files to be written. Raises UserError where they cannot be of the source's kind."""
    try:
        return [scan.encode(job.conversion, values, place > 0)[0] for place, values in enumerate(made)]
    except Exception as error:  # an encoder fails in open-ended ways, and none may stop the rest
        raise UserError(f"cannot be written as its own kind ({type(error).__name__}: {brief(error)})") from error


def write(paths: Sequence[Path], contents: Sequence[bytes]) -> None:
    """Writes each file atomically. Raises UserError where the file system refuses."""
    for path, content in zip(paths, contents, strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            disk.write_bytes(path, content)
        except OSError as error:
            raise UserError(
                f"{printable(path)}: cannot be written: {error.strerror}; free space, or check --out"
            ) from None
