"""Estimates rounds on H200 and TPU v5e from programs compiled here. Prints two tables; nothing is run.

    python scripts/scaling_table.py --raw scaling.jsonl
    python scripts/scaling_table.py --raw scaling.jsonl --only quick-start

It needs the extras aot-cuda and aot-tpu. Each workload is compiled for eight devices of each kind under the plan that
the rules choose. The rounds of other numbers of devices and clients are computed from that program: clients are as many
as the table says, with the local steps of the config's clients in turn. Lines are added to the file of --raw as they
are found, and the newest of each workload and kind counts.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import benchmark
import numpy as np

from fedjax_mri.compile import estimate, machines, roofline, schedule, targets
from fedjax_mri.core import devices, environment
from fedjax_mri.data import check
from fedjax_mri.fed.engine import auto, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation
from fedjax_mri.run import config
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.run.config import Experiment

ROOT = pathlib.Path(__file__).parents[1]
COLUMNS = "devices", "plan", "memory, MB", "kernels a step", "step, ms"
KINDS = ("h200", "v5e")
DEVICES, CLIENTS = (1, 8, 64, 256), 1_000
COHORTS = (1_000, 10_000, 100_000, 1_000_000)
CONFIGS = {  # name -> config file, experiment, flags
    "quick-start": ("quickstart.py", "", ()),
    "CycleGAN, 256 px": ("cyclegan_phantom.py", "", ()),
    "fusion, 240 px": ("fusion_phantom.py", "", ()),
    "EfficientNet-B1, 240 px": (
        "classifiers.py",
        "efficientnet_b1",
        ("--task.network.width", "1.0", "--data.size", "240", "--local.batch", "16", "--plan.precision", "bf16"),
    ),
}
WORKLOADS = {"W6: ResNet-18, 64 px": "W6", "W7: CycleGAN, 128 px": "W7"}

Line = dict[str, Any]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--raw", type=pathlib.Path, required=True, help="file of lines, which is read and added to")
    names = [*CONFIGS, *WORKLOADS]
    words.add_argument(
        "--only", nargs="*", default=None, choices=names, help="compile these workloads alone; none: only print"
    )
    given = words.parse_args()
    environment.prefer_cpu_without_devices()
    for name in names if given.only is None else given.only:
        for kind in KINDS:
            print(f"compiling {name} for {kind}", file=sys.stderr, flush=True)
            with given.raw.open("a", encoding="utf-8") as file:
                file.write(json.dumps(compiled(name, *workload(name), machines.parse(f"{kind}:8"))) + "\n")
    newest: dict[tuple[str, str], Line] = {}
    for text in given.raw.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        newest[line["workload"], line["kind"]] = line
    print(
        "\n\n".join(
            [table(list(newest.values())), curve([line for (name, _), line in newest.items() if name == "quick-start"])]
        )
    )


def workload(name: str) -> tuple[Callable[[Plan], Simulation], Plan]:
    """Returns what assembles a workload's simulation for a plan, and the plan with its open fields."""
    if name in WORKLOADS:
        return benchmark.simulations(WORKLOADS[name]), Plan(precision="bf16")
    file, experiment, flags = CONFIGS[name]
    return assembled(config.override(config.load(ROOT / "configs" / file)[experiment], flags))


def assembled(settings: Experiment) -> tuple[Callable[[Plan], Simulation], Plan]:
    """Returns what assembles an experiment's simulation for a plan, and the plan with its open fields."""
    federation = check.build_source(settings.data, settings.seed)
    described = describe(federation)
    return lambda plan: assemble(settings, described, federation.train, plan), settings.plan


def compiled(name: str, build: Callable[[Plan], Simulation], open_plan: Plan, machine: machines.Machine) -> Line:
    """Returns what is found of a simulation compiled for a machine: memory, the work of a step, and estimated times."""
    with devices.compiling_for(targets.compile_devices(machine)):
        plan, begin = auto.plan_by_rule(open_plan, build, CLIENTS // machine.size), time.perf_counter()
        sim = build(plan)
        program = segments.compile_for_shapes(sim, plan, 1)
        steps = np.asarray(auto.first_cohort_steps(sim))
    events, memory = estimate.events_of(program, plan), estimate.memory_of(program, plan)
    rates, links = machines.rates(machine.accelerator, plan.precision), machines.links(machine, plan.devices)
    step = roofline.part_seconds(events, "step", rates, links)

    def seconds(number: int, clients: int) -> roofline.Seconds:
        several = machines.links(machine._replace(size=number), number)
        passes = schedule.schedule(np.resize(steps[steps > 0], clients), number, plan.lanes)
        return roofline.round_seconds(events, passes, rates, several)

    return {
        "workload": name,
        "kind": machine.accelerator.name,
        "plan": f"{plan.lanes} lane{'s' * (plan.lanes > 1)}, {plan.conv}, {plan.precision}",
        "compile_s": time.perf_counter() - begin,
        "memory_mb": sum(memory[:3]) / 1e6,
        "kernels": estimate.work_of(events).kernels,
        "step_ms": 1e3 * step.total,
        "step_shares": {field: part / step.total for field, part in step._asdict().items()},
        "round_s": {number: seconds(number, CLIENTS).total for number in DEVICES},
        "curve_s": {number: [seconds(number, cohort).total for cohort in COHORTS[:3]] for number in DEVICES},
    }


def table(lines: list[Line]) -> str:
    """Returns a row for each workload and kind of device."""
    head = ["workload", *COLUMNS, "bound by", *(f"{number} device{'s' * (number > 1)}, s" for number in DEVICES)]
    rows = []
    for line in lines:
        bound = max(line["step_shares"], key=lambda part: line["step_shares"][part])
        share = f"{bound.replace('launches', 'starts')} {line['step_shares'][bound]:.0%}"
        rows.append([*cells(line), share, *(f"{seconds:.3g}" for seconds in line["round_s"].values())])
    return markdown(head, rows)


def cells(line: Line) -> list[str]:
    """Returns the name of what was compiled, and the cells of COLUMNS."""
    kind = line["kind"].upper() if line["kind"] == "h200" else line["kind"]
    numbers = [f"{line['memory_mb']:,.0f}", f"{line['kernels']:,}", f"{line['step_ms']:.3g}"]
    return [line["workload"], kind, line["plan"], *numbers]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def curve(lines: list[Line]) -> str:
    """Returns the estimated seconds of a round up to a million clients, which take ten times a hundred thousand's."""
    rows = [
        [line["kind"], f"{int(number):,}", *(f"{value:.3g}" for value in [*seconds, 10 * seconds[-1]])]
        for line in lines
        for number, seconds in line["curve_s"].items()
    ]
    return markdown(["device", "devices", *(f"{cohort:,} clients" for cohort in COHORTS)], rows)


if __name__ == "__main__":
    main()
