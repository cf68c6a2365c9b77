"""Checks and times the engine on one accelerator: tests, workloads beside PyTorch, lanes, programs, the chosen plan.

    scripts/device_check.sh            # see there

Each step is a process of its own with a limit of time. When the time for all is over, the remaining steps are left
out. So the most important ones come first.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

HOME = pathlib.Path(__file__).parents[1]
PRECISIONS = {"float32": "fp32", "tf32": "tf32", "bf16": "bf16"}  # as the engine and as its PyTorch peer call them
LANES = (16, 64, 256)
BY_RULE = ("--tune_s", "0", "--devices", "1")
COLUMNS = {  # of a line that the benchmark or its peer prints -> heading
    "median_s": "s a round",
    "share_of_peak": "share of peak",
    "useful_share": "useful share",
    "ms_per_step_and_device": "ms a step",
    "compile_s": "compiling, s",
    "first_round_s": "first round, s",
    "peak_mb": "peak MB",
}
Row = dict[str, Any]


class Step(NamedTuple):
    """A command of the check, whose last line of output may be a line of JSON."""

    name: str
    seconds: float  # that it may take
    command: tuple[str, ...]
    environment: dict[str, str] = {}  # noqa: RUF012


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--out", type=pathlib.Path, default=pathlib.Path("device_check"))
    words.add_argument("--peer", default=sys.executable, help="the Python that has PyTorch")
    words.add_argument("--minutes", type=float, default=9.5, help="for all steps together")
    words.add_argument("--tiny", action="store_true", help="tiny settings on the CPU, to see that the script works")
    words.add_argument("--only", default="", help="steps whose name contains this alone")
    chosen = words.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * chosen.minutes
    rows = list[Row]()
    scratch = pathlib.Path(tempfile.mkdtemp(dir=chosen.out)).resolve()  # runs and programs, new each time
    for step in steps(chosen.tiny, chosen.peer, scratch):
        if chosen.only in step.name:
            limit = step.seconds * (4 if chosen.tiny else 1)
            rows.append(run(step, min(limit, end - time.monotonic())))
            with (chosen.out / "rows.jsonl").open("a", encoding="utf-8") as file:
                print(json.dumps(rows[-1]), file=file)
            (chosen.out / "table.md").write_text(table(rows), encoding="utf-8")
            print(describe(rows[-1]), flush=True)
    failed = [row["step"] for row in rows if row["ended"] != "done"]
    print(f"{len(rows) - len(failed)} of {len(rows)} steps done; {chosen.out / 'table.md'}")
    sys.exit(1 if failed else 0)


def steps(tiny: bool, peer: str, scratch: pathlib.Path) -> Iterator[Step]:
    """Yields the steps, the most important first."""
    yield Step("tests", 150, tests(tiny), {"FEDJAX_MRI_DEVICE_TESTS": "1"})
    workloads, rounds = (("W1",), "2") if tiny else (("W1", "W3", "W6", "W7"), "4")
    for precision, its_name in list(PRECISIONS.items())[: 2 if tiny else 3]:
        for workload in workloads:
            case = ("--workload", workload, "--rounds", rounds)
            yield Step(
                f"{workload} {precision}", 90, benchmark(*case, "--precision", precision, *BY_RULE), cached(scratch)
            )
            where = ("--device", "cpu" if tiny else "cuda", "--precision", its_name)
            yield Step(f"{workload} {precision} pytorch", 60, (peer, "scripts/peers/pytorch/run.py", *case, *where))
    for lanes in (2, 4) if tiny else LANES:
        given = ("--workload", "W3", "--rounds", "2", "--lanes", str(lanes), "--conv", "gemm", "--devices", "1")
        yield Step(f"W3 {lanes} lanes", 60, benchmark(*given), cached(scratch))
    for workload in ("W1",) if tiny else ("W5", "W6"):
        tune = ("--tune_s", "5" if tiny else "20", "--devices", "1")
        yield Step(f"{workload} plan by measurement", 120, benchmark("--workload", workload, "--rounds", "2", *tune))
    loops = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer=+WHILE"}
    if not tiny:  # a CPU does not know this flag
        yield Step("W1 loops on the device", 60, benchmark("--workload", "W1", "--rounds", "4", *BY_RULE), loops)
    again = benchmark("--workload", "W1", "--rounds", rounds, "--precision", "float32", *BY_RULE)
    yield Step("W1 float32, programs kept", 60, again, cached(scratch))
    short = train(scratch / "run", 4 if tiny else 20)
    yield Step("a run with its folder", 90, short, {"XDG_CACHE_HOME": str(scratch / "cache")})
    if not tiny:
        compiling = ("-m", "fedjax_mri", "compile", "configs/quickstart.py", "--for", "h200:1")
        yield Step("quick-start estimate", 150, (sys.executable, *compiling))


def tests(tiny: bool) -> tuple[str, ...]:
    """Returns the command of the tests for devices, or of a few of them; they need no plug-in of pytest."""
    alone = ("-o", "addopts=", "-p", "no:cacheprovider", "-m", "device")
    alone += ("-k", "resident-1 or each and float32 or exported") if tiny else ()
    return (sys.executable, "-m", "pytest", "-q", *alone, "tests/fed/test_device.py")


def benchmark(*words: str) -> tuple[str, ...]:
    """Returns the command that times this engine."""
    return (sys.executable, "scripts/benchmark.py", *words)


def cached(scratch: pathlib.Path) -> dict[str, str]:
    """Returns the environment in which compiled programs and what was measured for them are kept for later steps."""
    return {"JAX_COMPILATION_CACHE_DIR": str(scratch / "programs")}


SHORT_RUN = """
import dataclasses, pathlib, sys
from fedjax_mri.core.environment import prepare_jax
from fedjax_mri.run import config, experiment
prepare_jax()
one = config.load(pathlib.Path("configs/synthetic.py"))[""]
one = dataclasses.replace(one, rounds=int(sys.argv[2]), evaluate_every=2)
experiment.run(one, pathlib.Path(sys.argv[1]), None, print)
"""


def train(folder: pathlib.Path, rounds: int) -> tuple[str, ...]:
    """Returns the command of a short run, without the report that `fedjax-mri train` writes with more packages."""
    return (sys.executable, "-c", SHORT_RUN, str(folder), str(rounds))


def run(step: Step, seconds: float) -> Row:
    """Returns the row of a step: what it printed, how long it took and how it ended."""
    if seconds < 5:
        return {"step": step.name, "ended": "left out: no time"}
    begin, here = time.monotonic(), {**os.environ, **step.environment}
    row: Row = {"step": step.name, "ended": "done"}
    try:
        done = subprocess.run(step.command, cwd=HOME, env=here, capture_output=True, text=True, timeout=seconds)
        row |= {"row": last_json(done.stdout), "tail": (done.stdout + done.stderr)[-2000:]}
        if done.returncode:
            row["ended"] = f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        row["ended"] = f"ended after {seconds:.0f} s"
    return {**row, "seconds": time.monotonic() - begin}


def last_json(text: str) -> Row | None:
    """Returns the last line of a text that is a JSON object."""
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return None


def describe(row: Row) -> str:
    """Returns a row in words."""
    found = row.get("row") or {}
    figure = f", {found['median_s']:.4g} s a round" if "median_s" in found else ""
    return f"{row['step']}: {row['ended']} in {row.get('seconds', 0):.0f} s{figure}"


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    head = ("step", *COLUMNS.values(), "plan", "ended")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        found = row.get("row") or {}
        figures = (figure(found.get(name)) for name in COLUMNS)
        cells = [row["step"], *figures, found.get("versions", {}).get("plan", ""), row["ended"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    day = datetime.datetime.now(datetime.UTC).date()
    return "\n".join([*lines, "", f"{day}, Python {platform.python_version()}; {device()}", ""])


def figure(value: float | None) -> str:
    """Returns a number with four digits; nothing for none."""
    return "" if value is None else f"{value:.4g}"


def device() -> str:
    """Returns the name of the GPU, as its driver tells it; that of the processor where there is none."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
        return subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
