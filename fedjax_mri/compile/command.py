"""Compiles a config for a machine under several plans, and tells what each needs and which is the best."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from fedjax_mri.compile import estimate, machines, targets
from fedjax_mri.compile.estimate import Estimate, helpful_devices
from fedjax_mri.compile.machines import Machine
from fedjax_mri.core import devices
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.engine import auto
from fedjax_mri.fed.engine.auto import Refusal
from fedjax_mri.fed.engine.plan import Conv, Plan, Precision
from fedjax_mri.fed.engine.simulation import Simulation, check_simulation
from fedjax_mri.run import costs
from fedjax_mri.run.assemble import assemble_simulation, build_federation, build_method, describe
from fedjax_mri.run.config import Experiment

Say = Callable[[str], None]
ABOUT = {"what": "estimates from compiled programs and data sheets; nothing was run", "jax": jax.__version__}


class Choices(NamedTuple):
    """The values of a plan's fields that are tried; where there are none, those that `auto` would try."""

    lanes: Sequence[int] = ()
    conv: Sequence[Conv] = ()
    precision: Sequence[Precision] = ()
    remat: Sequence[bool] = ()


class PlanEstimates(NamedTuple):
    """What was found for a config on a machine."""

    machine: Machine
    estimates: list[Estimate]
    refused: list[Refusal]
    notes: list[str]

    @property
    def best(self) -> Estimate:
        """Returns the estimate of the fastest plan. Raises UserError if none works."""
        if not self.estimates:
            first = self.refused[0]
            raise UserError(
                f"--for {self.machine.name}: none of {len(self.refused)} plans works; "
                f"{auto.describe_plan(first.plan)}: {first.reason}"
            )
        return min(self.estimates, key=lambda each: each.round_s.total)


def estimate_plans(config: Experiment, machine: Machine, choices: Choices, say: Say) -> PlanEstimates:
    """Returns what each plan of a config needs on a machine that need not be here.

    Raises UserError on bad settings, and where the machine's compiler is missing.
    """
    if wrong := [lanes for lanes in choices.lanes if lanes < 1]:
        raise UserError(f"--lanes {wrong[0]}: must be 1 or more")
    with devices.compiling_for(targets.compile_devices(machine)):
        method, federation = build_method(config), build_federation(config)
        described = describe(federation)

        def assemble(plan: Plan) -> Simulation:
            return assemble_simulation(config, method, described, federation.train, plan)

        found = PlanEstimates(machine, [], [], [])
        for plan in plans(config.plan, choices, assemble):
            sim = assemble(plan)
            check_simulation(sim, plan)
            idle = costs.idle_lanes(sim, plan)
            if idle and any(each.plan.lanes < plan.lanes for each in found.estimates):
                found.notes.append(f"{idle}; left out")
                continue
            unused = "" if plan.devices == machine.size else f"{plan.devices} of {machine.size} devices are used"
            found.notes.extend(note for note in (idle, unused) if note and note not in found.notes)
            say(f"compiling: {auto.describe_plan(plan)}, {plan.precision}")
            result = estimate.estimate(config, sim, federation.tests, plan, machine)
            (found.estimates if isinstance(result, Estimate) else found.refused).append(result)  # type: ignore
        return found


def plans(plan: Plan, choices: Choices, assemble: auto.Assemble) -> Iterator[Plan]:
    """Yields the plans to try, each once."""
    by_rule = auto.plan_by_rule(plan, assemble)
    if choices.lanes or choices.conv:
        pairs = itertools.product(choices.conv or (by_rule.conv,), choices.lanes or (by_rule.lanes,))
        laid_out = [dataclasses.replace(by_rule, conv=conv, lanes=lanes) for conv, lanes in pairs]
    else:
        laid_out = list(auto.candidates(plan, by_rule.lanes))
    finish = itertools.product(choices.precision or (plan.precision,), choices.remat or (plan.remat,))
    for (precision, remat), one in itertools.product(list(finish), laid_out):
        yield dataclasses.replace(one, precision=precision, remat=remat).resolve()


def flags(plan: Plan) -> str:
    """Returns a plan as flags of `train`."""
    named = {name: getattr(plan, name) for name in ("devices", "lanes", "conv", "precision", "remat")}
    return " ".join(f"--plan.{name} {value}" for name, value in named.items())


def table(found: PlanEstimates) -> str:
    """Returns the plans as lines of text."""
    head = (
        "devices lanes  conv    precision remat  compile  memory MB      step: Gflop      MB flop/byte kernels waits"
        "      ms   round s     run s   products memory starts network"
    )
    return "\n".join([head, *(_row(each) for each in found.estimates), *(_refusal(each) for each in found.refused)])


def _row(each: Estimate) -> str:
    plan, step, memory = each.plan, each.step, each.memory
    shares = [part / max(each.round_s.total, 1e-12) for part in each.round_s]
    return (
        f"{_named(plan)} {each.compile_s:6.0f} s "
        f"{memory.needed / 1e6:7.0f} of {memory.available / 1e6:<7.0f} {step.flops / 1e9:9.3g} "
        f"{step.bytes / 1e6:7.3g} "
        f"{step.intensity:9.1f} {step.kernels:7} {step.waits:5} {1e3 * each.step_s.total:7.3g} "
        f"{each.round_s.total:9.3g} {each.run_s.total:9.3g}   " + " ".join(f"{share:7.0%}" for share in shares)
    )


def _refusal(each: Refusal) -> str:
    return f"{_named(each.plan)} {each.reason}"


def _named(plan: Plan) -> str:
    remat = "yes" if plan.remat else "no"
    return f"{plan.devices:7} {plan.lanes:5}  {plan.conv:7} {plan.precision:9} {remat:5}"


def lines(found: PlanEstimates) -> Iterator[str]:
    """Yields what is said of the best plan."""
    best = found.best
    for each in best.collectives:
        often = f"{each.times} times in each {each.part}" if each.times > 1 else f"once in each {each.part}"
        yield f"{each.kind} of {each.bytes / 1e6:.3g} MB, {often}"
    yield f"fastest by this estimate: {flags(best.plan)}"
    by_devices = ", ".join(f"{count}: {seconds:.3g} s" for count, seconds in best.rounds_by_devices.items())
    yield f"a round by devices: {by_devices}; {worthwhile(best.rounds_by_devices)}"
    yield from found.notes
    yield "Times are estimates from the compiled program and data sheets; nothing was run."


def worthwhile(rounds: dict[int, float]) -> str:
    """Returns in words up to how many devices help."""
    devices = helpful_devices(rounds)
    return "one device is enough" if devices == 1 else f"up to {devices} devices help"


def to_json(found: PlanEstimates, name: str) -> dict[str, Any]:
    """Returns all that was found for an experiment as values that JSON can hold."""
    best = found.best
    return {
        "name": name,
        "assumed": {
            precision: machines.rates(found.machine.accelerator, precision)._asdict()
            for precision in sorted({each.plan.precision for each in found.estimates})
        },
        "best": flags(best.plan),
        "helpful_devices": helpful_devices(best.rounds_by_devices),
        "plans": [_plain(each) for each in found.estimates],
        "refused": [{"plan": dataclasses.asdict(each.plan), "reason": each.reason} for each in found.refused],
        "notes": found.notes,
    }


def _plain(each: Estimate) -> dict[str, Any]:
    return {
        "plan": dataclasses.asdict(each.plan),
        "compile_s": each.compile_s,
        "memory_bytes": each.memory._asdict(),
        "step": {**each.step._asdict(), "flop_per_byte": each.step.intensity},
        "collectives": [one._asdict() for one in each.collectives],
        "estimated_s": {
            name: {**seconds._asdict(), "total": seconds.total}
            for name, seconds in (
                ("step", each.step_s),
                ("round", each.round_s),
                ("evaluation", each.evaluation_s),
                ("run", each.run_s),
            )
        },
        "estimated_round_s_by_devices": each.rounds_by_devices,
    }
