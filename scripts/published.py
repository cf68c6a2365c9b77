"""Reproduces what others have published on synthetic data, and writes the tables of docs/published.md.

    python scripts/published.py

Nothing is downloaded. `--only scaffold pfedme` takes minutes; `--only fedprox` takes much longer.
"""

import argparse
import datetime
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import compare
import published_fedprox
import published_pfedme
import published_scaffold
from published_fedprox import Line

Job = tuple[str, int, int]  # data, seed, rounds
PAGE = compare.HOME / "docs" / "published.md"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    words.add_argument("--seeds", type=int, default=3, help="data sets and runs of each of FedProx's cells, up to 10")
    words.add_argument("--rounds", type=int, default=200, help="rounds of FedProx's runs")
    words.add_argument("--raw", type=pathlib.Path, default=compare.HOME / "runs" / "published.jsonl")
    words.add_argument("--page", type=pathlib.Path, default=PAGE)
    chosen = words.parse_args()
    for name in chosen.only:
        start = time.monotonic()
        text = PARTS[name](chosen)
        minutes = (time.monotonic() - start) / 60
        text += f"\n\n{circumstances(minutes)}"
        print(text, flush=True)
        compare.write(chosen.page, text, (f"<!-- {name}:start -->", f"<!-- {name}:end -->"))


def circumstances(minutes: float) -> str:
    command = shlex.join(["python", "scripts/published.py", *sys.argv[1:]])
    return f"Synthetic data. {minutes:.1f} min on {compare.CORES} cores, {datetime.date.today()}. Command: `{command}`"


def fedprox(chosen: argparse.Namespace) -> str:
    """Runs each job in a process, one process for each core. Jobs in the file of raw lines are not run again."""
    done = earlier(chosen.raw)
    wanted = [(name, seed, chosen.rounds) for seed in range(chosen.seeds) for name in published_fedprox.DATA]
    with ProcessPoolExecutor(compare.CORES, get_context("spawn")) as pool:
        jobs = {pool.submit(_lines, job): job for job in wanted if job not in done}
        for finished in as_completed(jobs):
            done[jobs[finished]] = finished.result()
            with chosen.raw.open("a", encoding="utf-8") as file:
                file.write(json.dumps([jobs[finished], done[jobs[finished]]]) + "\n")
    found = [line for job in wanted for line in done[job]]
    return f"{published_fedprox.table(found)}\n\n{published_fedprox.claims(found)}"


def earlier(raw: pathlib.Path) -> dict[Job, list[Line]]:
    """Returns what a file of lines holds, and makes its folder if it is missing."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    found = map(json.loads, raw.read_text(encoding="utf-8").splitlines() if raw.exists() else ())
    return {tuple(job): [Line(*line) for line in lines] for job, lines in found}


def _lines(job: Job) -> list[Line]:
    return list(published_fedprox.lines(*job))


def pfedme(chosen: argparse.Namespace) -> str:
    return published_pfedme.table(published_pfedme.accuracies(runs=10))


def scaffold(chosen: argparse.Namespace) -> str:
    return published_scaffold.table()


PARTS: dict[str, Callable[[argparse.Namespace], str]] = {"fedprox": fedprox, "pfedme": pfedme, "scaffold": scaffold}

if __name__ == "__main__":
    main()
