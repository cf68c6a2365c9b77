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

from fedjax_mri.core import disk, environment
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import config as configs
from fedjax_mri.serve import converting, explaining, scheduler, store
from fedjax_mri.serve.scheduler import Worker, WorkItem
from fedjax_mri.serve.store import Job

NICE = 10  # pages answer first
EXPIRY = 60.0  # seconds between two looks for jobs to be deleted
POLL = 0.03  # seconds between two looks into an empty queue
CRASHES = 2  # of this process while it held a file, after which the file is refused
ENDED_TWICE = UserError("reading or converting it ended the worker twice: it is refused")
WORK = {"convert": converting.convert, "explain": explaining.explain, "region": explaining.explain_regions}


def step(worker: Worker) -> bool:
    """Works for a turn on a job and those like it; returns False where no job waits."""
    job = scheduler.next_job(worker)
    if job is None:
        return False
    try:
        WORK[job.request.kind](worker, job.request, harmless(worker, job))
    except Exception as error:  # of the run, such as a damaged checkpoint: no file of this job can be worked on
        if job.folder.is_dir():
            store.end(job, scheduler.line_of(error, worker.home))
    finally:
        scheduler.hold(worker, [])
    return True


def harmless(worker: Worker, job: Job) -> Iterator[WorkItem]:
    """Yields items of jobs like this one, and refuses those that have ended a worker twice."""
    crashes = scheduler.crashes(worker.home)
    for work in scheduler.work_items(worker, scheduler.key(job), only_one=bool(crashes)):
        if crashes.get(work.result, 0) >= CRASHES:
            scheduler.refuse(worker, work, ENDED_TWICE)
        else:
            yield work


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
    scheduler.hold(worker, [])
    disk.write_text(home / scheduler.STATE, "ready")
    expiry = 0.0
    while True:
        if not step(worker):
            time.sleep(POLL)
        if time.monotonic() > expiry:
            store.expire(home, worker.settings.keep_hours)
            expiry = time.monotonic() + EXPIRY


if __name__ == "__main__":
    main()
