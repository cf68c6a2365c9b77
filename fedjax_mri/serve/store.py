"""Jobs on disk: a folder for each, so that what was accepted outlives the server, and is finished by the next one.

HOME/jobs/OWNER/ID/in/          the files as they were sent, numbered: no name of a user's is a path here
HOME/jobs/OWNER/ID/request.json what is asked; the job is accepted once this file is there
HOME/jobs/OWNER/ID/plan.json    how many items it has; there once the worker has begun
HOME/jobs/OWNER/ID/items/       a JSON file for each item that is finished
HOME/jobs/OWNER/ID/out/, view/  results, and arrays from which the page draws
HOME/jobs/OWNER/ID/end.json     there once the job is done or has failed
HOME/queue/TIME.OWNER.ID        an empty file for each job that is accepted and not finished

OWNER is a digest of the user's name or session. A job is looked for below its owner's folder alone.
"""

import contextlib
import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedjax_mri.core import disk

State = Literal["queued", "running", "done", "failed"]
ID = re.compile(r"[0-9a-f]{32}")
MARKER = re.compile(r"\d{14,}\.[0-9a-f]{24}\.[0-9a-f]{32}")  # other files in the queue's folder are somebody else's
DRAFT_SECONDS = 6 * 3600  # after which an upload that was never accepted is deleted


class Request(NamedTuple):
    """What a user asks for."""

    kind: str  # "convert", "explain" or "region"
    run: str  # the name of a run
    names: list[str]  # of the files, as the user sees them; file N is in/N with the ending of its name
    to: str = ""  # "ct" or "mr"
    samples: int = 0
    ct_offset: float | None = None
    left: list[str] | tuple[str, ...] = ()  # lines on files that were left out
    region: dict[str, Any] | None = None  # of "region": the item, its slice, the box and the method
    created: float = 0.0  # seconds since 1970


class Job(NamedTuple):
    """An accepted job."""

    folder: Path
    request: Request

    @property
    def id(self) -> str:
        """The identifier, which cannot be guessed."""
        return self.folder.name


class Progress(NamedTuple):
    """How far a job is."""

    state: State
    total: int  # items; 0 before they are counted
    items: dict[int, dict[str, Any]]  # those that are finished, by number
    lines: list[str]  # to be shown to the user
    ahead: int  # jobs before it in the queue


def owner_folder(home: Path, owner: str) -> Path:
    """The folder of an owner's jobs."""
    return home / "jobs" / hashlib.sha256(owner.encode()).hexdigest()[:24]


def draft(home: Path, owner: str) -> Path:
    """A new folder that takes the files of a job which is not accepted yet."""
    folder = owner_folder(home, owner) / uuid.uuid4().hex  # 122 random bits
    (folder / "in").mkdir(parents=True)
    return folder


def accept(home: Path, folder: Path, request: Request) -> Job:
    """The job of a draft: from now on it is finished, whatever happens to this process."""
    job = Job(folder, request._replace(created=time.time()))
    disk.write_json(folder / "request.json", job.request._asdict())
    marker(home, job).touch()
    return job


def marker(home: Path, job: Job) -> Path:
    """The file that stands for an unfinished job in the queue; their names are in order of time."""
    place = home / "queue" / f"{int(job.request.created * 1000):014d}.{job.folder.parent.name}.{job.id}"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def load(folder: Path) -> Job | None:
    """The accepted job in a folder; None where there is none."""
    found = read(folder / "request.json")
    return Job(folder, Request(**found)) if found else None


def find(home: Path, owner: str, identifier: str) -> Job | None:
    """An owner's job; None where it is not there, or another's."""
    return load(owner_folder(home, owner) / identifier) if ID.fullmatch(identifier) else None


def jobs_of(home: Path, owner: str) -> list[Job]:
    """All jobs of an owner, the newest first."""
    folder = owner_folder(home, owner)
    found = [load(one) for one in folder.iterdir()] if folder.is_dir() else []
    return sorted((job for job in found if job), key=lambda job: -job.request.created)


def queued(home: Path) -> list[str]:
    """The names of the markers of all unfinished jobs, the oldest first."""
    try:
        return sorted(path.name for path in (home / "queue").iterdir() if MARKER.fullmatch(path.name))
    except FileNotFoundError:
        return []


def of_marker(home: Path, name: str) -> Job | None:
    """The job of a marker; None, and no marker from now on, where it was deleted."""
    _, owner, identifier = name.split(".")
    job = load(home / "jobs" / owner / identifier)
    if job is None:
        (home / "queue" / name).unlink(missing_ok=True)
    return job


def inputs(job: Job) -> list[Path]:
    """The paths of a job's files, in the order of their names."""
    by_number = {int(path.name.partition(".")[0]): path for path in (job.folder / "in").iterdir()}
    return [by_number[number] for number in range(len(job.request.names))]


def begin(job: Job, total: int, lines: list[str]) -> None:
    """Writes that the worker has begun, how many items there are, and lines on what is left out."""
    disk.write_json(job.folder / "plan.json", {"total": total, "lines": lines})
    for name in ("items", "out", "view"):
        (job.folder / name).mkdir(exist_ok=True)


def finish_item(job: Job, number: int, content: dict[str, Any]) -> None:
    """Writes what became of an item."""
    disk.write_json(job.folder / "items" / f"{number}.json", content)


def unfinished(job: Job, total: int) -> set[int]:
    """The numbers of the items that are not finished."""
    return {number for number in range(total) if not (job.folder / "items" / f"{number}.json").exists()}


def end(home: Path, job: Job, line: str = "") -> None:
    """Writes that a job is done, or has failed where there is a `line` that says why."""
    disk.write_json(job.folder / "end.json", {"line": line, "at": time.time()})
    marker(home, job).unlink(missing_ok=True)


def progress(home: Path, job: Job) -> Progress:
    """How far a job is, by what lies on disk."""
    plan, ended = read(job.folder / "plan.json") or {}, read(job.folder / "end.json")
    paths = list((job.folder / "items").glob("*.json")) if plan else []
    items = {int(path.stem): item for path in paths if (item := read(path)) is not None}
    lines = [*job.request.left, *plan.get("lines", []), *filter(None, [ended and ended["line"]])]
    ahead = 0
    if ended is None and not plan:
        names, own = queued(home), marker(home, job).name
        ahead = names.index(own) if own in names else 0
    state: State = ("failed" if ended["line"] else "done") if ended else ("running" if plan else "queued")
    return Progress(state, plan.get("total", 0), dict(sorted(items.items())), lines, ahead)


def item(job: Job, number: int) -> dict[str, Any] | None:
    """What became of one item; None where it is not finished or not there."""
    return read(job.folder / "items" / f"{number}.json")


def read(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where it is not there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    assert isinstance(content, dict)
    return content


def every(home: Path) -> Iterator[Path]:
    """Yields the folders of all jobs and drafts."""
    return (home / "jobs").glob("*/*")


def recover(home: Path) -> None:
    """Makes the queue complete again after a crash."""
    for folder in every(home):
        job = load(folder)
        if job and not (folder / "end.json").exists():
            marker(home, job).touch()


def expire(home: Path, hours: float) -> None:
    """Deletes jobs that ended so many hours ago, and uploads that were given up."""
    now = time.time()
    for folder in every(home):
        with contextlib.suppress(FileNotFoundError):
            ended = read(folder / "end.json")
            given_up = not (folder / "request.json").exists() and now - folder.stat().st_mtime > DRAFT_SECONDS
            if given_up or (ended and now - ended["at"] > hours * 3600):
                delete(folder)


def delete(folder: Path) -> None:
    """Deletes a job with all its files; what asks for it from now on does not find it."""
    (folder / "request.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
