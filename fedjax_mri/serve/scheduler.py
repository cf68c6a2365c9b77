"""The items of queued jobs, handed out so that users take turns, and what becomes of each."""

import collections
import contextlib
import itertools
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
TURN = 1.0  # seconds after which new jobs, and those of other runs, are looked at

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
    served: dict[Key, float]  # when jobs of each key were last looked at


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


def next_job(worker: Worker) -> Job | None:
    """Returns a queued job of the key that was served least recently, the oldest of these; None where none waits."""
    jobs = filter(None, (store.of_marker(worker.home, name) for name in store.queued(worker.home)))
    job = min(jobs, key=lambda job: worker.served.get(key(job), 0.0), default=None)
    if job is not None:
        worker.served[key(job)] = time.monotonic()
    return job


def work_items(worker: Worker, wanted: Key, only_one: bool = False) -> Iterator[WorkItem]:
    """Yields unfinished items of the queued jobs of a key, of each owner in turn, for TURN seconds.

    `only_one`: after the first, which may have crashed an earlier worker, no more.
    """
    by_owner = collections.defaultdict[Path, list[Iterator[WorkItem]]](list)
    for name in store.queued(worker.home):
        job = store.of_marker(worker.home, name)
        if job is not None and key(job) == wanted:
            by_owner[job.folder.parent].append(plan(job))
    until = time.monotonic() + TURN
    for items in itertools.zip_longest(*map(itertools.chain.from_iterable, by_owner.values())):
        for work in filter(None, items):
            yield work
            if only_one or time.monotonic() > until:
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
