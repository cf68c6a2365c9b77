"""The items of queued jobs, handed out so that users take turns, and what becomes of each."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_mri.core import disk, failures
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import series
from fedjax_mri.data.files.scan import File, Item
from fedjax_mri.serve import runs, store
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.store import Job

TURN = 5.0  # seconds after which jobs of other runs are looked at

Key = tuple[Any, ...]  # equal for jobs whose files may share a batch


class WorkItem(NamedTuple):
    """One item of a job."""

    job: Job
    number: int
    item: Item
    left: set[int]  # items of the job that are not finished; the job was planned anew where `Worker.left` has another


class Worker(NamedTuple):
    """What the process knows."""

    home: Path
    places: list[Path]
    settings: Settings
    left: dict[Path, set[int]]  # job folder -> its items that are not finished


def key(job: Job) -> Key:
    """What the files of a batch have in common."""
    request = job.request
    return (request.kind, request.run, request.to, request.samples, job.id if request.kind == "region" else "")


def run_folder(worker: Worker, name: str) -> Path:
    """The folder of a run. Raises UserError where it is gone."""
    found = runs.find(worker.places).get(name)
    if found is None:
        raise UserError(f"{name}: this run is not there any more")
    return found


def pieces(worker: Worker, wanted: Key, alone: bool) -> Iterator[WorkItem]:
    """Yields unfinished items of all queued jobs of a key, of each owner in turn; until others have waited for TURN.

    `alone`: after the first, which may have crashed an earlier worker, no more.
    """
    opened: dict[str, Iterator[WorkItem]] = {}
    seen: set[str] = set()
    until = time.monotonic() + TURN
    while True:
        others = False
        for name in store.queued(worker.home):
            if name in seen:
                continue
            job = store.of_marker(worker.home, name)
            if job is not None and key(job) == wanted:
                seen.add(name)
                opened[name] = iter(plan(worker, job))
            others = others or job is not None
        if not opened or (others and time.monotonic() > until):
            return
        for name in {name.split(".")[1]: name for name in reversed(opened)}.values():  # the first job of each owner
            piece = next(opened[name], None)
            if piece is None:
                del opened[name]
            elif piece.left is not worker.left.get(piece.job.folder):
                del opened[name]
                seen.discard(name)
            else:
                yield piece
                if alone:
                    return


def plan(worker: Worker, job: Job) -> list[WorkItem]:
    """The unfinished items of a job; begins the job where it has not begun."""
    try:
        before = store.read(job.folder / "plan.json")
        paths = store.inputs(job)
        files = [File(path, Path(name)) for path, name in zip(paths, job.request.names)]
        whole = before is None or before.get("whole", True)
        items, lines = (items_of(files), []) if job.request.kind == "explain" else series.items(files, whole)
        if before is None:
            store.begin(job, len(items), [public(job, line) for line in lines])
        left = worker.left[job.folder] = store.unfinished(job, len(items))
        if not left:
            store.end(worker.home, job)
        return [WorkItem(job, number, items[number], left) for number in sorted(left)]
    except FileNotFoundError:  # deleted meanwhile
        return []


def items_of(files: list[File]) -> list[Item]:
    """Each file as an item."""
    return [Item((file.path,), (file.name,)) for file in files]


def split_series(worker: Worker, job: Job) -> None:
    """Plans a job again, with each image of its series as an item of its own, as one of them is bad."""
    items, lines = series.items([File(p, Path(n)) for p, n in zip(store.inputs(job), job.request.names)], False)
    for path in (job.folder / "items").iterdir():
        path.unlink()
    worker.left.pop(job.folder, None)
    said = [public(job, line) for line in lines]
    disk.write_json(job.folder / "plan.json", {"total": len(items), "lines": said, "whole": False})


def public(job: Job, text: str) -> str:
    """A line without paths of the server: files have the names that the user gave."""
    for path, name in zip(store.inputs(job), job.request.names):
        text = text.replace(str(path), name).replace(path.name, name)
    folder = str(job.folder / "in")
    return text.replace(f"{folder}: ", "").replace(folder, "")


def finish(worker: Worker, piece: WorkItem, content: dict[str, Any]) -> None:
    """Writes what became of an item, and ends its job with the last."""
    if worker.left.get(piece.job.folder) is not piece.left:
        return
    try:
        numbers = [int(path.name.partition(".")[0]) for path in piece.item.paths]
        store.finish_item(piece.job, piece.number, {"title": title(piece), "inputs": numbers, **content})
        piece.left.discard(piece.number)
        if not piece.left:
            del worker.left[piece.job.folder]
            store.end(worker.home, piece.job)
    except FileNotFoundError:  # deleted meanwhile
        worker.left.pop(piece.job.folder, None)


def title(piece: WorkItem) -> str:
    """The name of an item to the user: its file's, or the first one's of a series."""
    first, count = str(piece.item.names[0]), len(piece.item.paths)
    return first if count == 1 else f"{first} and {count - 1} more"


def refuse(worker: Worker, piece: WorkItem, error: Exception) -> None:
    """Refuses an item; of a whole series its images are tried one by one. Nothing, where its job was deleted.

    An error that was not foreseen has its traceback in HOME/traceback.txt.
    """
    with contextlib.suppress(FileNotFoundError):
        whole = (store.read(piece.job.folder / "plan.json") or {}).get("whole", True)
        if isinstance(error, UserError) and len(piece.item.paths) > 1 and whole:
            split_series(worker, piece.job)
            return
        line = public(piece.job, failures.one_line(error, worker.home)).partition("; the traceback is in ")[0]
        finish(worker, piece, {"state": "refused", "line": line})


def hold(worker: Worker, held: list[WorkItem]) -> None:
    """Writes down which items this process holds, so that a crash is known to be of one of them."""
    names = [f"{piece.job.folder.parent.name}/{piece.job.id}/{piece.number}" for piece in held]
    disk.write_json(worker.home / "held.json", {"held": names})


def suspicion(worker: Worker, piece: WorkItem) -> int:
    """How often a worker has crashed while it held an item; `supervisor.py` counts."""
    found = store.read(worker.home / "crashes.json") or {}
    return int(found.get(f"{piece.job.folder.parent.name}/{piece.job.id}/{piece.number}", 0))
