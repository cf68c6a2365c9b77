"""Jobs on disk: a folder for each, so that what was accepted outlives the server, and is finished by the next one.

HOME/jobs/OWNER/ID/in/          the files as they were sent, numbered: no name of a user's is a path here
HOME/jobs/OWNER/ID/request.json what is asked; the job is accepted once this file is there
HOME/jobs/OWNER/ID/plan.json    its items, each of one file or of a series; there once the worker has begun
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedjax_mri.core import disk
from fedjax_mri.data.files.scan import File, Item

State = Literal["queued", "running", "done", "failed"]
ID = re.compile(r"[0-9a-f]{32}")
MARKER = re.compile(r"\d{14,}\.[0-9a-f]{24}\.[0-9a-f]{32}")  # other files in the queue's folder are somebody else's
DRAFT_SECONDS = 6 * 3600  # after which an upload that was never accepted is deleted


class Request(NamedTuple):
    """Says what a user asks for."""

    kind: str  # "convert", "explain" or "region"
    run: str  # the name of a run
    names: list[str]  # of the files, as the user sees them; file N is in/N with the ending of its name
    to: str = ""  # "ct" or "mr"
    samples: int = 0
    ct_offset: float | None = None
    left_out: Sequence[str] = ()  # lines on files that were left out
    region: dict[str, Any] | None = None  # of "region": the item, its slice, the box and the method
    created: float = 0.0  # seconds since 1970


class Job(NamedTuple):
    """Holds an accepted job."""

    folder: Path
    request: Request

    @property
    def id(self) -> str:
        """Returns the identifier, which cannot be guessed."""
        return self.folder.name

    @property
    def marker(self) -> Path:
        """Returns the file that is in the queue until the job is finished; the names of these are in order of time."""
        name = f"{int(self.request.created * 1000):014d}.{self.folder.parent.name}.{self.id}"
        return self.folder.parents[2] / "queue" / name

    @property
    def files(self) -> list[File]:
        """Returns the files that were sent, with the names that the user gave."""
        by_number = {int(path.name.partition(".")[0]): path for path in (self.folder / "in").iterdir()}
        return [File(by_number[number], Path(name)) for number, name in enumerate(self.request.names)]


class Progress(NamedTuple):
    """Tells how far a job is."""

    state: State
    total: int  # items; 0 before they are counted
    items: dict[int, dict[str, Any]]  # those that are finished, by number
    lines: list[str]  # to be shown to the user
    ahead: int  # jobs before it in the queue


def owner_folder(home: Path, owner: str) -> Path:
    """Returns the folder of an owner's jobs."""
    return home / "jobs" / hashlib.sha256(owner.encode()).hexdigest()[:24]


def draft(home: Path, owner: str) -> Path:
    """Makes and returns a folder that takes the files of a job which is not accepted yet."""
    folder = owner_folder(home, owner) / uuid.uuid4().hex  # 122 random bits
    (folder / "in").mkdir(parents=True)
    return folder


def accept(folder: Path, request: Request) -> Job:
    """Returns the job of a draft; from now on it is finished, whatever happens to this process."""
    job = Job(folder, request._replace(created=time.time()))
    disk.write_json(folder / "request.json", job.request._asdict())
    job.marker.touch()
    return job


def load(folder: Path) -> Job | None:
    """Returns the accepted job in a folder; None where there is none."""
    request = read(folder / "request.json")
    return Job(folder, Request(**request)) if request else None


def find(home: Path, owner: str, identifier: str) -> Job | None:
    """Returns an owner's job; None where it is not there, or another's."""
    return load(owner_folder(home, owner) / identifier) if ID.fullmatch(identifier) else None


def jobs_of(home: Path, owner: str) -> list[Job]:
    """Returns all jobs of an owner, the newest first."""
    jobs = filter(None, map(load, owner_folder(home, owner).glob("*")))
    return sorted(jobs, key=lambda job: -job.request.created)


def queued(home: Path) -> list[str]:
    """Returns the names of the markers of all unfinished jobs, the oldest first."""
    return sorted(path.name for path in (home / "queue").glob("*") if MARKER.fullmatch(path.name))


def of_marker(home: Path, name: str) -> Job | None:
    """Returns the job of a marker; where the job was deleted, deletes the marker and returns None."""
    _, owner, identifier = name.split(".")
    job = load(home / "jobs" / owner / identifier)
    if job is None:
        (home / "queue" / name).unlink(missing_ok=True)
    return job


def plan(job: Job, items: Sequence[Item], lines: list[str], instead_of: int | None = None) -> None:
    """Writes the items of a job and lines on what is left out; or the items that an item was split into.

    These get numbers of their own, so that a number means the same item for ever.
    """
    for name in ("items", "out", "view"):
        (job.folder / name).mkdir(exist_ok=True)
    written = read(job.folder / "plan.json") or {"items": [], "lines": []}
    if instead_of is not None:
        written["items"][instead_of] = None
    written["items"] += [[[path.name for path in item.paths], [*map(str, item.names)]] for item in items]
    written["lines"] += lines
    disk.write_json(job.folder / "plan.json", written)


def unfinished(job: Job) -> dict[int, Item] | None:
    """Returns the items of a job that are not finished, by number; None where the job was not planned."""
    written = read(job.folder / "plan.json")
    if written is None:
        return None
    done = {path.stem for path in (job.folder / "items").glob("*.json")}
    return {
        number: Item(tuple(job.folder / "in" / name for name in item[0]), tuple(map(Path, item[1])))
        for number, item in enumerate(written["items"])
        if item and str(number) not in done
    }


def finish_item(job: Job, number: int, content: dict[str, Any]) -> None:
    """Writes what became of an item, and ends its job with the last."""
    disk.write_json(job.folder / "items" / f"{number}.json", content)
    if not unfinished(job):
        end(job)


def end(job: Job, line: str = "") -> None:
    """Writes that a job is done, or has failed where there is a `line` that says why."""
    disk.write_json(job.folder / "end.json", {"line": line, "at": time.time()})
    job.marker.unlink(missing_ok=True)


def progress(job: Job) -> Progress:
    """Returns how far a job is, by what lies on disk."""
    plan, ended = read(job.folder / "plan.json"), read(job.folder / "end.json")
    finished = {int(path.stem): read(path) for path in (job.folder / "items").glob("*.json")}
    items = {number: item for number, item in sorted(finished.items()) if item}
    lines = [*job.request.left_out, *(plan["lines"] if plan else ()), *([ended["line"]] if ended else ())]
    waiting = queued(job.folder.parents[2]) if not (plan or ended) else []
    ahead = waiting.index(job.marker.name) if job.marker.name in waiting else 0
    state: State = ("failed" if ended["line"] else "done") if ended else ("running" if plan else "queued")
    total = sum(item is not None for item in plan["items"]) if plan else 0
    return Progress(state, total, items, [*filter(None, lines)], ahead)


def item(job: Job, number: int) -> dict[str, Any] | None:
    """Returns what became of one item; None where it is not finished or not there."""
    return read(job.folder / "items" / f"{number}.json")


def read(path: Path) -> dict[str, Any] | None:
    """Returns the content of a JSON file; None where it is not there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    assert isinstance(content, dict)
    return content


def recover(home: Path) -> None:
    """Makes the queue complete again after a crash."""
    for job in filter(None, map(load, home.glob("jobs/*/*"))):
        if not (job.folder / "end.json").exists():
            job.marker.touch()


def expire(home: Path, hours: float) -> None:
    """Deletes jobs that ended so many hours ago, and uploads that were given up."""
    now = time.time()
    for folder in home.glob("jobs/*/*"):
        with contextlib.suppress(FileNotFoundError):
            ended = read(folder / "end.json")
            given_up = not (folder / "request.json").exists() and now - folder.stat().st_mtime > DRAFT_SECONDS
            if given_up or (ended and now - ended["at"] > hours * 3600):
                delete(folder)


def delete(folder: Path) -> None:
    """Deletes a job with all its files; what asks for it from now on does not find it."""
    (folder / "request.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
