"""What one plan of a config would need on a machine: memory, work of a local step, exchanges, and estimated times."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.compile import hlo, kernels, machines, roofline, schedule
from fedjax_mri.compile.kernels import Collective, Event, Kernel, Wait
from fedjax_mri.compile.machines import Machine
from fedjax_mri.compile.roofline import Seconds
from fedjax_mri.core import trees
from fedjax_mri.fed.engine import auto, evaluate, segments
from fedjax_mri.fed.engine.auto import Refusal
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, state_shapes
from fedjax_mri.run.config import Experiment

WORTHWHILE = 1.25  # twice as many devices help if they make a round this many times as fast


class Memory(NamedTuple):
    """The bytes that a compiled program needs on each device, and those that there are."""

    arguments: float  # state, examples, and what the program is given besides
    results: float  # that do not take the place of arguments
    temporaries: float
    available: float

    @property
    def needed(self) -> float:
        """The bytes of all that must be there at once."""
        return self.arguments + self.results + self.temporaries


class StepWork(NamedTuple):
    """What one pass of all lanes through a local step does on a device."""

    flops: float
    bytes: float
    kernels: int
    waits: int  # loops whose condition the host reads

    @property
    def intensity(self) -> float:
        """Returns the floating-point operations of the step for each byte that it moves."""
        return self.flops / max(self.bytes, 1.0)


class Estimate(NamedTuple):
    """What a plan would need and take. All times but `compile_s` are estimates."""

    plan: Plan
    compile_s: float
    memory: Memory
    step: StepWork
    collectives: tuple[Collective, ...]
    step_s: Seconds
    round_s: Seconds
    evaluation_s: Seconds
    run_s: Seconds
    rounds_by_devices: dict[int, float]  # estimated seconds of a round on other numbers of devices


def estimate(config: Experiment, sim: Simulation, tests: Any, plan: Plan, machine: Machine) -> Estimate | Refusal:
    """Compiles the programs of a config under `plan`, and returns what they need and would take, or why it does not."""
    begin = time.perf_counter()
    try:
        segment = segments.compile_for_shapes(sim, plan, config.evaluate_every)
        evaluators = evaluate.compile_for_shapes(sim.task, plan, tests, state_shapes(sim))
    except auto.REFUSING as error:
        return auto.refusal_of(plan, error)
    seconds = time.perf_counter() - begin
    rates, links = machines.rates(machine.accelerator, plan.precision), machines.links(machine, plan.devices)
    events = events_of(segment, plan)
    round_s = roofline.round_seconds(events, schedule.first_round(sim, plan), rates, links)
    evaluation_s = Seconds()
    for program in evaluators.values():
        of_test = kernels.events(hlo.parse(program.as_text()))
        evaluation_s = evaluation_s.plus(roofline.part_seconds(of_test, "segment", rates, links))
    evaluations = 1 + -(-config.rounds // config.evaluate_every)
    return Estimate(
        plan,
        seconds,
        memory_of(segment, plan),
        work_of(events),
        tuple(event for event in events if isinstance(event, Collective)),
        roofline.part_seconds(events, "step", rates, links),
        round_s,
        evaluation_s,
        round_s.times(config.rounds).plus(evaluation_s.times(evaluations)),
        rounds_by_devices(with_exchange(events, sim, plan), sim, plan, machine),
    )


def events_of(segment: Any, plan: Plan) -> list[Event]:
    """Returns what a compiled segment does, or a round, if the host calls each.

    Raises RuntimeError if the engine's loops are not found in it.
    """
    whole = "round" if segments.is_round_by_round(plan) else "segment"
    events = kernels.events(hlo.parse(segment.as_text()), whole)
    if not {"round", "step"} <= {event.part for event in events}:
        raise RuntimeError("the compiled program does not name its loops over rounds and local steps")
    return events


def memory_of(program: Any, plan: Plan) -> Memory:
    """Returns the memory that a compiled program needs on each device."""
    analysis = program.memory_analysis()
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(analysis.argument_size_in_bytes, results, analysis.temp_size_in_bytes, plan.memory())


def work_of(events: Sequence[Event]) -> StepWork:
    """Returns what one pass through a local step does."""
    inside = [event for event in events if event.part == "step"]
    found = [event for event in inside if isinstance(event, Kernel)]
    return StepWork(
        flops=sum(kernel.times * kernel.flops for kernel in found),
        bytes=sum(kernel.times * kernel.bytes for kernel in found),
        kernels=sum(kernel.times for kernel in found if kernel.launched),
        waits=sum(event.times for event in inside if isinstance(event, Wait)),
    )


def rounds_by_devices(events: list[Event], sim: Simulation, plan: Plan, machine: Machine) -> dict[int, float]:
    """Returns the estimated seconds of a round by the number of devices, with the same program on each.

    They are the plan's, and 1, 2, 4, ... up to the first number with a lane for each client.
    """
    steps, rates = np.asarray(auto.first_cohort_steps(sim)), machines.rates(machine.accelerator, plan.precision)
    doublings = math.ceil(math.log2(max(len(steps) / plan.lanes, 1)))
    found = dict[int, float]()
    for devices in sorted({plan.devices, *(2**number for number in range(doublings + 1))}):
        passes = schedule.schedule(steps, devices, plan.lanes)
        links = machines.links(machine._replace(size=devices), devices)
        found[devices] = roofline.round_seconds(events, passes, rates, links).total
    return found


def with_exchange(events: list[Event], sim: Simulation, plan: Plan) -> list[Event]:
    """Returns `events` with the exchange that other numbers of devices need where the program is for one device."""
    if plan.devices > 1:
        return events
    return [*events, Collective("round", 1, "all-reduce", trees.nbytes(state_shapes(sim).server.model))]


def helpful_devices(rounds: dict[int, float]) -> int:
    """Returns the largest number of devices up to which each doubling makes a round WORTHWHILE times as fast."""
    devices = 1
    while 2 * devices in rounds and rounds[devices] >= WORTHWHILE * rounds[2 * devices]:
        devices *= 2
    return devices
