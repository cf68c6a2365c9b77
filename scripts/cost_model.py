"""Checks the estimate of `fedjax-mri compile` against rounds that were measured on this machine. Prints a table.

    python scripts/cost_model.py RAW

RAW holds lines of scripts/benchmark.py, as `compare.py --raw` writes them; the newest of each workload counts. Each
workload is compiled again, and its round is estimated from the compiled program (`compile/roofline.py`). The rates of
the machine, which a data sheet gives for accelerators, are fitted to W1, W5 and W6, so the other rows are predictions.
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import benchmark
import numpy as np
from scipy.optimize import minimize

from fedjax_mri.compile import hlo, kernels, roofline, schedule
from fedjax_mri.compile.kernels import Event
from fedjax_mri.compile.roofline import Links, Rates, Schedule, Seconds
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan

FITTED = ("W1", "W5", "W6")
HOST_S = 1e-3  # a call of the program
SHARED = Links(devices=2, hosts=1, within=10e9, between=10e9, within_s=1e-5, between_s=1e-5)  # memory of the host
STARTS = [(flops, bandwidth, 1e-6) for flops in (3e10, 2e11) for bandwidth in (5e9, 5e10)]  # where the fit begins

Line = dict[str, Any]


class Measured(NamedTuple):
    """A workload that was measured, and its compiled program."""

    seconds: float  # of a round
    schedule: Schedule
    events: list[Event]


def main() -> None:
    benchmark.prepare_jax()
    lines = [json.loads(text) for text in pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    newest = {line["workload"]: line for line in lines if line.get("peer") == "fedjax_mri" and "passes" in line}
    measured = {name: compiled(newest[name]) for name in sorted(newest)}
    print(table(measured, fit([measured[name] for name in FITTED if name in measured])))


def compiled(line: Line) -> Measured:
    """Returns the workload of a line, compiled for this machine under the plan with which it was measured."""
    plan = Plan(**line["plan"])
    sim = benchmark.simulations(line["workload"])(plan)
    events = kernels.events(hlo.parse(segments.compile_for_shapes(sim, plan, 1).as_text()))
    refills = schedule.first_round(sim, plan).refills
    return Measured(line["median_s"], Schedule(line["passes"], refills), events)


def fit(measured: list[Measured]) -> Rates:
    """Returns the rates of the machine: operations and bytes a second and the start of a kernel, in s.

    The sum of the squared relative errors is least.
    """

    def loss(logarithms: np.ndarray) -> float:
        found = rates(*np.exp(logarithms))
        return sum((estimated(one, found).total / one.seconds - 1) ** 2 for one in measured)

    fits = [minimize(loss, np.log(start), method="Nelder-Mead", options={"maxiter": 400}) for start in STARTS]
    return rates(*np.exp(min(fits, key=lambda found: found.fun).x))


def rates(flops: float, bandwidth: float, launch_s: float) -> Rates:
    return Rates({"f32": flops}, bandwidth, launch_s)


def estimated(one: Measured, found: Rates) -> Seconds:
    """Returns the time of a round by the model."""
    return roofline.round_seconds(one.events, one.schedule, found, SHARED).plus(Seconds(launches=HOST_S))


def table(measured: Mapping[str, Measured], found: Rates) -> str:
    """Returns a table of the measured seconds and those of the model."""
    parts = ("products", "memory", "starts", "network")
    out = [f"| workload | measured, s | estimate, s | error | {' | '.join(parts)} |", "|" + "---|" * 8]
    for name, one in measured.items():
        seconds = estimated(one, found)
        shown = " | ".join(f"{part / seconds.total:.0%}" for part in seconds)
        fitted = " (fitted)" if name in FITTED else ""
        error = seconds.total / one.seconds - 1
        out.append(f"| {name}{fitted} | {one.seconds:.3f} | {seconds.total:.3f} | {error:+.0%} | {shown} |")
    start = f"{1e6 * found.launch_s:.2g} us" if found.launch_s > 1e-9 else "nothing"
    note = f"{found.flops['f32'] / 1e9:.0f} Gflop/s and {found.bandwidth / 1e9:.1f} GB/s on each device, {start}"
    return "\n".join([*out, "", f"Fitted: {note} for the start of a kernel."])


if __name__ == "__main__":
    main()
