"""The items of queued jobs, handed out so that users take turns, and what becomes of each."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_mri.core import disk, failures
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import series
from fedjax_mri.data.files.scan import Item
from fedjax_mri.serve import runs, store
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.store import Job

STATE = "worker.state"  # the file that says "starting", "ready" or "down"
TURN = 5.0  # seconds after which jobs of other runs are looked at

Key = tuple[Any, ...]  # equal for jobs whose files may share a batch


class WorkItem(NamedTuple):
    """Names one item of a job, to work on."""

    job: Job
    number: int
    item: Item

    @property
    def result(self) -> str:
        """Returns the file below HOME/jobs that says what became of it, once it is finished."""
        return f"{self.job.folder.parent.name}/{self.job.id}/items/{self.number}.json"

    @property
    def title(self) -> str:
        """Returns the name that the user sees: its file's, or the first one's of a series."""
        more = len(self.item.paths) - 1
        return f"{self.item.names[0]} and {more} more" if more else str(self.item.names[0])


class Worker(NamedTuple):
    """Holds what the worker process knows."""

    home: Path
    places: list[Path]
    settings: Settings


def key(job: Job) -> Key:
    """Returns what the files of a batch have in common."""
    request = job.request
    return (request.kind, request.run, request.to, request.samples, job.id if request.kind == "region" else "")


def run_folder(worker: Worker, name: str) -> Path:
    """Returns the folder of a run. Raises UserError where it is gone."""
    folder = runs.find(worker.places).get(name)
    if folder is None:
        raise UserError(f"{name}: this run is not there any more")
    return folder


def work_items(worker: Worker, wanted: Key, only_one: bool = False) -> Iterator[WorkItem]:
    """Yields unfinished items of all queued jobs of a key, of each owner in turn; until others have waited for TURN.

    `only_one`: after the first, which may have crashed an earlier worker, no more.
    """
    opened: dict[str, Iterator[WorkItem]] = {}  # by the names of markers, which are in order of time
    seen: set[str] = set()
    until = time.monotonic() + TURN
    while True:
        others = False
        for name in store.queued(worker.home):
            job = None if name in seen else store.of_marker(worker.home, name)
            if job is not None and key(job) == wanted:
                seen.add(name)
                opened[name] = plan(job)
            elif job is not None:
                others = True
        if not opened or (others and time.monotonic() > until):
            return
        for name in {name.split(".")[1]: name for name in reversed(opened)}.values():  # the first job of each owner
            work = next(opened[name], None)
            if work is None:
                del opened[name]
                continue
            yield work
            if only_one:
                return


def plan(job: Job) -> Iterator[WorkItem]:
    """Yields the unfinished items of a job; begins the job where it has not begun."""
    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        if store.unfinished(job) is None:
            files = job.files
            single = [Item((file.path,), (file.name,)) for file in files]
            items, lines = (single, []) if job.request.kind == "explain" else series.items(files, whole=True)
            store.plan(job, items, [public(job, line) for line in lines])
        left = store.unfinished(job) or {}
        if not left:  # the last worker died before it wrote so
            store.end(job)
        for number, item in left.items():
            yield WorkItem(job, number, item)


def public(job: Job, text: str) -> str:
    """Returns a line without paths of the server: files have the names that the user gave."""
    for path, name in job.files:
        text = text.replace(str(path), str(name)).replace(path.name, str(name))
    folder = str(job.folder / "in")
    return text.replace(f"{folder}: ", "").replace(folder, "")


def finish(work: WorkItem, content: dict[str, Any]) -> None:
    """Writes what became of an item. Does nothing where its job was deleted."""
    numbers = [int(path.name.partition(".")[0]) for path in work.item.paths]
    with contextlib.suppress(FileNotFoundError):
        store.finish_item(work.job, work.number, {"title": work.title, "inputs": numbers, **content})


def refuse(worker: Worker, work: WorkItem, error: Exception) -> None:
    """Refuses an item, or splits a series whose images are tried one by one then.

    An error that was not foreseen has its traceback in HOME/traceback.txt.
    """
    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        if isinstance(error, UserError) and len(work.item.paths) > 1:
            of_path = {file.path: file for file in work.job.files}
            parts, lines = series.items([of_path[path] for path in work.item.paths], whole=False)
            if len(parts) > 1:
                store.plan(work.job, parts, [public(work.job, line) for line in lines], instead_of=work.number)
                return
        finish(work, {"state": "refused", "line": public(work.job, line_of(error, worker.home))})


def line_of(error: Exception, home: Path) -> str:
    """Returns an error as one line for users, who cannot see the file of its traceback."""
    return failures.one_line(error, home).partition("; the traceback is in ")[0]


def hold(worker: Worker, held: Sequence[WorkItem]) -> None:
    """Writes down which items this process holds, so that a crash is known to be of one of them."""
    disk.write_json(worker.home / "held.json", {"held": [work.result for work in held]})


def count_crash(home: Path) -> None:
    """Adds one to the count of each item that the worker held when it died."""
    held = (store.read(home / "held.json") or {"held": []})["held"]
    counts = crashes(home)
    disk.write_json(home / "crashes.json", counts | {name: counts.get(name, 0) + 1 for name in held})


def crashes(home: Path) -> dict[str, int]:
    """Returns how often a worker has died while it held an item, by `WorkItem.result`, of items not finished since."""
    counts, jobs = store.read(home / "crashes.json") or {}, home / "jobs"
    return {name: n for name, n in counts.items() if (jobs / name).parent.exists() and not (jobs / name).exists()}
