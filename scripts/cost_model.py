"""Predicts the time of a round from three constants of the machine, also on many devices. Prints two tables.

    python scripts/cost_model.py RAW

RAW holds lines of scripts/benchmark.py, as `compare.py --raw` writes them; the newest of each workload counts. The
seconds of a round are

    passes x lanes x (flop / R + bytes / B) + passes x kernels x overhead  +  2 x update / link  +  host

`passes` is known from the schedule; flop, bytes and kernels of a local step are counted in the program. R, B and
overhead are fitted to W1, W5 and W6 by least squares in relative error, so the other rows are predictions.
"""

import json
import math
import pathlib
import sys
from typing import Any

import numpy as np
from scipy.optimize import nnls

FITTED = ("W1", "W5", "W6")
LINK_GB_S, LATENCY_S = 10.0, 20e-6  # assumed for the network: 100 Gbit/s at 80 %, and the time of a hop
HOST_S = 1e-3  # sampling, schedule, and a call of the program

Line = dict[str, Any]


def main() -> None:
    lines = [json.loads(text) for text in pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    newest = {line["workload"]: line for line in lines if line.get("peer") == "fedjax_mri" and "passes" in line}
    measured = {name: newest[name] for name in sorted(newest)}
    constants = fit([measured[name] for name in FITTED if name in measured])
    print(rows(measured, constants))
    print()
    print(curve(measured["W1"], constants))


def terms(line: Line) -> np.ndarray:
    """Returns the Gflop, GB and kernels of a round, [3], which R, B and overhead turn into seconds."""
    steps = line["passes"] * line["plan"]["lanes"]
    return np.array([steps * line["gflop_per_step"], steps * line["gbyte_per_step"], line["passes"] * line["kernels"]])


def fit(lines: list[Line]) -> np.ndarray:
    """Returns seconds per Gflop, GB and kernel, [3], not negative, fitted by least squares in relative error."""
    wanted = np.array([line["median_s"] for line in lines])
    weighed = np.stack([terms(line) for line in lines]) / wanted[:, None]
    scale = weighed.max(0)
    return nnls(weighed / scale, 1 - HOST_S / wanted)[0] / scale


def predicted(line: Line, constants: np.ndarray) -> float:
    """Returns the seconds of a round by the model."""
    return float(terms(line) @ constants) + HOST_S


def rows(measured: dict[str, Line], constants: np.ndarray) -> str:
    """Returns a table of the measured seconds and those of the model."""
    parts = ("products", "memory", "overhead")
    out = [f"| workload | measured, s | model, s | error | {' | '.join(parts)} |", "|" + "---|" * 7]
    for name, line in measured.items():
        model, shares = predicted(line, constants), terms(line) * constants
        shown = " | ".join(f"{share / model:.0%}" for share in shares)
        fitted = " (fitted)" if name in FITTED else ""
        error = model / line["median_s"] - 1
        out.append(f"| {name}{fitted} | {line['median_s']:.3f} | {model:.3f} | {error:+.0%} | {shown} |")
    gflops, bandwidth, overhead = (1 / value if value else math.inf for value in constants)
    note = f"{gflops:.0f} Gflop/s and {bandwidth:.1f} GB/s on each device, {1e6 / overhead:.1f} us a kernel."
    return "\n".join([*out, "", f"Fitted: {note}"])


def curve(line: Line, constants: np.ndarray) -> str:
    """Returns a table of seconds a round for cohorts up to a million clients, on 1 to 1,000 devices like this one."""
    kernels = line["kernels"] / line["plan"]["lanes"]
    per_step = float(np.array([line["gflop_per_step"], line["gbyte_per_step"], kernels]) @ constants)
    steps_a_client = line["steps_per_s"] / line["clients_per_s"]
    cohorts = (1_000, 10_000, 100_000, 1_000_000)
    out = ["| devices | " + " | ".join(f"{cohort:,} clients" for cohort in cohorts) + " |", "|" + "---|" * 5]
    for devices in (1, 10, 100, 1_000):
        sent = 2 * line["update_mb"] / 1e3 / LINK_GB_S * (devices - 1) / devices + LATENCY_S * math.log2(devices)
        seconds = [per_step * steps_a_client * math.ceil(cohort / devices) + sent + HOST_S for cohort in cohorts]
        out.append(f"| {devices:,} | " + " | ".join(f"{value:.3g}" for value in seconds) + " |")
    return "\n".join(out)


if __name__ == "__main__":
    main()
