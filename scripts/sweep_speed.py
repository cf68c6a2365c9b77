"""Measures how much faster seeds train as one study than one after another, in wall seconds with compile time included.

    python scripts/sweep_speed.py --config configs/quickstart.py --rounds 20 --seeds 8

Prints one JSON line for each way and state of the cache of compiled programs: "cold" is empty, "warm" holds the
programs of an earlier run of the same way. Each measurement has its own process. "separate" trains all seeds one after
another in one process, as `fedjax-mri train` would, each in its own run folder.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

from fedjax_mri.core import environment
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.run import config, experiment
from fedjax_mri.run.config import Experiment
from fedjax_mri.study import sweep
from fedjax_mri.study.folder import finished_cells
from fedjax_mri.study.study import Study

WAYS = ("separate", "sweep")


def main() -> None:
    """Measures each way, cold and then warm."""
    words = arguments()
    if words.way:
        return measure(words)
    for way in words.ways:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                environment = {**os.environ, "XDG_CACHE_HOME": cache}
                command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--state", state]
                subprocess.run(command, check=True, env=environment)


def arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/quickstart.py"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--members", default="auto", help="plan.members of the sweep")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--way", choices=WAYS, help="measure this way, in this process")
    parser.add_argument("--state", default="")
    return parser.parse_args()


def measure(words: argparse.Namespace) -> None:
    """Prints one line."""
    start = time.perf_counter()
    environment.prepare_jax()
    base, seeds = experiment_of(words), range(words.seeds)
    with tempfile.TemporaryDirectory() as folder:
        final = (separate if words.way == "separate" else together)(base, seeds, pathlib.Path(folder))
    line = {
        "way": words.way,
        "cache": words.state,
        "seconds": time.perf_counter() - start,
        "seeds": words.seeds,
        "rounds": words.rounds,
        "config": str(words.config),
        "members": words.members,
        "train_nll": final,
    }
    print(json.dumps(line), flush=True)


def experiment_of(words: argparse.Namespace) -> Experiment:
    """The config's first experiment, of that many rounds."""
    base = next(iter(config.load(words.config).values()))
    every = min(base.evaluate_every, words.rounds)
    plan: Plan = replace(base.plan, tune_s=0.0, members=words.members)
    return replace(base, rounds=words.rounds, evaluate_every=every, plan=plan)


def separate(base: Experiment, seeds: range, folder: pathlib.Path) -> list[float]:
    """The last training loss of each seed."""
    final = []
    for seed in seeds:
        last: list[float] = []
        one = replace(base, seed=seed)
        experiment.run(
            one, folder / str(seed), say=quiet, watch=lambda p, last=last: last.append(p.trained.figures.figures["nll"])
        )
        final.append(last[-1])
    return final


def together(base: Experiment, seeds: range, folder: pathlib.Path) -> list[float]:
    """Returns the last losses of the seeds trained together as one study."""
    failures = sweep.run(Study(base, {"seed": seeds}), folder, say=quiet)
    assert not failures, failures
    return [cell.history[-1].training.figures["nll"] for cell in finished_cells(folder)]


def quiet(line: str) -> None:
    """Takes a line that would be printed, and prints nothing."""


if __name__ == "__main__":
    main()
