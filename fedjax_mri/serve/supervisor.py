"""Keeps the worker process running: starts it, starts it again when it dies, and counts what it held then."""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

from fedjax_mri.core import disk
from fedjax_mri.run import config as configs
from fedjax_mri.serve import scheduler
from fedjax_mri.serve.settings import Settings

PAUSE = 1.0  # seconds before a worker that died is started again
STATE = "worker.state"  # the file that says "starting", "ready" or "down"


async def keep_worker(home: Path, places: list[Path], settings: Settings) -> None:
    """Runs worker processes one after the other; when this task is cancelled, the last one is killed.

    What that held is done again by the next one.
    """
    words = json.dumps({"places": [str(one) for one in places], "settings": configs.to_dict(settings)})
    while True:
        disk.write_text(home / STATE, "starting")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fedjax_mri.serve.worker", str(home)),
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server, which ends it
        )
        try:
            assert process.stdin is not None
            process.stdin.write(f"{words}\n".encode())
            await process.wait()
        finally:
            disk.write_text(home / STATE, "down")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        scheduler.count_crash(home)
        await asyncio.sleep(PAUSE)
