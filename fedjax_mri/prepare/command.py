"""The command `fedjax-mri prepare`: reads, prepares and writes files; a bad file costs one line, not the rest.

CT and MR of one patient are a pair where their paths differ in a folder ct or mr alone, as in ct/p1.nii.gz and
mr/p1.nii.gz.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data.files import discover, results
from fedjax_mri.data.files.images import printable
from fedjax_mri.data.files.read import ending_of, read_scan
from fedjax_mri.data.files.scan import Item, Limits, Scan
from fedjax_mri.data.prepare.steps import Group, Step
from fedjax_mri.prepare import output, page

RECORD = "prepared.json"


class Job(NamedTuple):
    """All that the command needs beside its files."""

    steps: dict[str, Step]
    out: Path
    force: bool
    modality: str = ""  # of files in no folder ct or mr that do not say it themselves
    limits: Limits = Limits()


def groups(items: Sequence[Item]) -> list[dict[str, Item]]:
    """Returns the items of each patient by modality; one whose folders name no modality is by itself, as ""."""
    found: dict[Path, dict[str, Item]] = {}
    for item in items:
        parts = item.names[0].parts
        place = next((i for i, part in enumerate(parts[:-1]) if part.lower() in ("ct", "mr")), None)
        modality = "" if place is None else parts[place].lower()
        rest = [part for i, part in enumerate(parts) if i != place]
        key = Path(*rest[:-1], rest[-1].removesuffix(ending_of(rest[-1]))) if modality else Path(item.names[0])
        if modality in found.get(key, {}):
            key = item.names[0]
        found.setdefault(key, {})[modality] = item
    return list(found.values())


def prepare(
    job: Job, patients: Sequence[dict[str, Item]], say: Callable[[str], None], step: Callable[[], None]
) -> tuple[int, int]:
    """Prepares the files of patients, and returns how many were prepared and how many refused.

    Each refusal is a line to `say`; `step` is called after each patient. The record and the page are written last.
    Raises UserError where results cannot be written.
    """
    record, rows, refused, written = earlier(job.out), [], 0, set[Path]()
    try:
        for items in patients:
            try:
                rows += one_patient(job, items, record, written)
            except UserError as error:
                say(f"{', '.join(printable(item.paths[0]) for item in items.values())}: {error}")
                refused += len(items)
            step()
    finally:  # what was written before a signal is on record
        if rows:
            disk.write_json(job.out / RECORD, record)
            page.write(job.out, list(job.steps), rows)
    return len(rows), refused


def one_patient(job: Job, items: dict[str, Item], record: dict[str, Any], written: set[Path]) -> list[page.Row]:
    """Prepares and writes the files of a patient, adds them to the record, and returns what the page shows.

    written: results of this command so far, to which the patient's are added.
    """
    scans = {modality: load_scan(job, item, modality) for modality, item in items.items()}
    before = {modality or scan.origin.modality: scan for modality, scan in scans.items()}
    sources = {modality or scans[modality].origin.modality: item for modality, item in items.items()}
    after = changed(job.steps, before)
    names = {modality: output.name_of(sources[modality].names[0], scan) for modality, scan in after.items()}
    for name in names.values():
        if name in written:
            raise UserError(f"another file gave {printable(job.out / name)} already: rename one of the two")
        if (job.out / name).exists() and not job.force:
            raise UserError(f"{printable(job.out / name)} is there: give --force to overwrite it, or another folder")
    rows = []
    written |= set(names.values())
    for modality, scan in after.items():
        results.write(job.out / names[modality], output.encoded(scan), "OUT")
        record["files"][names[modality].as_posix()] = entry(job, sources[modality], modality, scan)
        rows.append(page.Row(names[modality], before[modality], scan).thin())
    return rows


def load_scan(job: Job, item: Item, modality: str) -> Scan:
    """Returns the scan of an item with its modality; where nothing tells which, CT in HU and else MR."""
    scan = read_scan(item, modality or job.modality, job.limits)
    own, notes = modality or job.modality or scan.origin.modality, scan.notes
    if not own:
        own = "ct" if scan.units == "hu" else "mr"
        notes += (f"taken for {own.upper()}, which neither the file nor a folder says; give --modality if it is not",)
    return scan._replace(origin=scan.origin._replace(modality=own), notes=notes)


def changed(steps: dict[str, Step], group: Group) -> Group:
    """Returns the scans after all steps. Raises UserError, naming the step, where one fails."""
    for name, step in steps.items():
        try:
            group = step(group)
        except UserError:
            raise
        except Exception as error:  # a scan can be odd in open-ended ways, and none may stop the rest
            raise UserError(
                f"{name} fails ({type(error).__name__}: {short_message(error)}); leave the step out"
            ) from error
    return group


def entry(job: Job, item: Item, modality: str, scan: Scan) -> dict[str, Any]:
    """Returns what the record says of a file."""
    return {
        "sources": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in item.paths},
        "modality": modality,
        "steps": list(job.steps),
        "shape": list(scan.voxels.shape),
        "spacing_mm": [float(side) for side in scan.spacing],
        "units": scan.units,
        "notes": list(scan.notes),
        "versions": page.versions(),
    }


def earlier(out: Path) -> dict[str, Any]:
    """Returns the record that is there, or an empty one. Raises UserError where what is there is no record."""
    path = out / RECORD
    if not path.exists():
        return {"files": {}}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"files": dict(found["files"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path}: no record of `prepare` ({short_message(error)}): give another folder") from None


def find(folder: Path, out: Path) -> tuple[list[dict[str, Item]], list[str]]:
    """Returns the patients below a folder, and lines on what is left out.

    Raises UserError where there is nothing to prepare, and where the folder of results lies within the one that is
    read, as the next run would prepare them again.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: check the path")
    if discover.absolute(out).is_relative_to(discover.absolute(folder)):
        raise UserError(f"{out}: lies within {folder}, which is read: give a folder elsewhere")
    items, lines = discover.items(folder)
    return groups(items), lines
