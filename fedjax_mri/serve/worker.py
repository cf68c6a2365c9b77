"""The process that alone runs models: it takes jobs from the queue, and batches files of several users and jobs.

Usage: python -m fedjax_mri.serve.worker HOME, with its settings as one line of JSON on standard input. It ends when
that input ends, that is with its server. What it has begun lies on disk, and the next worker goes on with it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fedjax_mri.core import disk, environment, failures
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import config as configs
from fedjax_mri.serve import converting, explaining, pieces, store
from fedjax_mri.serve.pieces import Worker, WorkItem
from fedjax_mri.serve.store import Job

NICE = 10  # pages answer first
POLL = 0.03  # seconds between two looks into an empty queue
CRASHES = 2  # of this process while it held a file, after which the file is refused
ENDED_TWICE = "reading or converting it ended the worker twice: it is refused"
WORK = {"convert": converting.convert, "explain": explaining.explain, "region": explaining.region}


def turn(worker: Worker, job: Job) -> None:
    """Works on the jobs of one key, until none is left or others have waited for a while."""
    crashed = bool(store.read(worker.home / "crashes.json"))

    def passed() -> Iterator[WorkItem]:
        for piece in pieces.pieces(worker, pieces.key(job), crashed):
            if pieces.suspicion(worker, piece) >= CRASHES:
                pieces.refuse(worker, piece, UserError(ENDED_TWICE))
            else:
                yield piece

    WORK[job.request.kind](worker, job.request, passed())


def step(worker: Worker) -> bool:
    """Works for a turn on the oldest job and those like it; False where no job waits."""
    names = store.queued(worker.home)
    job = next((job for name in names if (job := store.of_marker(worker.home, name))), None)
    if job is None:
        return False
    try:
        turn(worker, job)
    except Exception as error:  # of the run, such as a damaged checkpoint: no file of this job can be worked on
        line = failures.one_line(error, worker.home).partition("; the traceback is in ")[0]
        if job.folder.is_dir():
            store.end(worker.home, job, line)
    return True


def end_with_server() -> None:
    """Ends this process when its standard input does."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Reads the settings, and works until the server ends."""
    home, words = Path(sys.argv[1]), json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_server, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICE)
    environment.prepare_jax()
    worker = Worker(home, [Path(one) for one in words["places"]], configs.from_dict(words["settings"]), {})
    pieces.hold(worker, [])
    disk.write_text(home / "worker.ready", str(os.getpid()))
    while True:
        if not step(worker):
            time.sleep(POLL)


if __name__ == "__main__":
    main()
