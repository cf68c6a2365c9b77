"""Submits the shards of a study to SLURM as an array job."""

import importlib.resources
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from fedjax_mri.core.errors import UserError


def submit(shards: int, study: pathlib.Path, out: pathlib.Path, flags: Sequence[str]) -> int:
    """Submits an array job that trains a study file in `out`, with more `flags`; returns the exit code of `sbatch`.

    Raises UserError when there is no SLURM.
    """
    if shards < 1:
        raise UserError(f"--slurm {shards}: give the number of shards, 1 or more")
    if not shutil.which("sbatch"):
        raise UserError(
            f"--slurm {shards}: there is no sbatch here; submit from a machine that has SLURM, or train each shard "
            f"yourself with --shard 0/{shards} to --shard {shards - 1}/{shards}"
        )
    sweep = [sys.executable, "-m", "fedjax_mri", "sweep", str(study.resolve()), "--out", str(out.resolve()), *flags]
    with importlib.resources.as_file(importlib.resources.files(__package__) / "sweep.sbatch") as script:
        command = ["sbatch", f"--array=0-{shards - 1}", str(script), *sweep]
        print(shlex.join(command), flush=True)
        return subprocess.run(command).returncode
