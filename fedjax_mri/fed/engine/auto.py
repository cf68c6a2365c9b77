"""Chooses the plan by measurement: a few candidates train small clients, and the fastest is used and kept on disk."""

import hashlib
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import devices, disk, memory
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data.contract import Batch, ClientData
from fedjax_mri.data.resident import specimen
from fedjax_mri.fed.client.local import step_counts
from fedjax_mri.fed.engine import segments, work
from fedjax_mri.fed.engine.placement import all_examples
from fedjax_mri.fed.engine.plan import Conv, Plan
from fedjax_mri.fed.engine.rounds import one_round
from fedjax_mri.fed.engine.schedule import longest_first
from fedjax_mri.fed.engine.simulation import Simulation, draw_cohort, initial_state, state_shapes
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.fed.world.conditions import ideal

STEPS = 4  # local steps of each client in a trial
REPEATS, LONG_S = 25, 1.0  # most trials of each candidate, and most seconds for them; the fastest trial counts
NOISE = 1.05  # an earlier candidate is preferred to the fastest if its time is at most this many times as long
# Fields that a choice fills in: what the plan leaves open of the first two, and `remat` where nothing fits without it.
MEASURED = ("lanes", "conv", "remat")
FEW_LANES = 4  # so few lanes fill a device only if a step is large
Pairs = tuple[tuple[Conv, float], ...]  # (conv, lanes as a multiple of those by rule), the likely fastest first
CANDIDATES: dict[str, Pairs] = {  # by platform, and for GPUs by whether few lanes fill the device
    "cpu": (("direct", 1), ("direct", 2), ("direct", 4), ("gemm", 1), ("gemm", 4)),
    "gpu, large steps": (("each", 1), ("xla", 1), ("each", 4), ("gemm", 1), ("each", 1 / 4)),
    "gpu": (("gemm", 1), ("xla", 1), ("each", 1 / 4), ("gemm", 4), ("gemm", 1 / 4)),
    "tpu": (("xla", 1), ("xla", 1 / 4), ("xla", 4), ("gemm", 1)),
}

# Errors of a compiler or a device, with which one candidate is refused. Errors of a task's own code have come before,
# when `cache_key` traced it.
REFUSING = (UserError, jax.errors.JaxRuntimeError, MemoryError, NotImplementedError)

Assemble = Callable[[Plan], Simulation]
CompiledTrial = tuple[Plan, Callable[[], float]]  # a plan, and a function that measures milliseconds an example


class Refusal(NamedTuple):
    """Why a candidate does not work."""

    plan: Plan
    reason: str
    foreseen: bool  # found by calculation, not by an error of the compiler or the device
    transient: bool  # memory ran out, perhaps because another program used it


class Choice(NamedTuple):
    """The plan that was chosen by measurement."""

    plan: Plan
    reason: str
    lasting: bool  # whether another measurement would find the same


class Trial(NamedTuple):
    """The measured time of one candidate."""

    plan: Plan
    ms: float  # milliseconds an example takes, idle lanes at the end of a round included


def choose_plan(
    plan: Plan, assemble: Assemble, folder: pathlib.Path, say: Callable[[str], None], rounds: float = math.inf
) -> Plan:
    """Returns `plan` with the fields that it leaves open filled in, and reports the reason with `say`.

    The choice is read from `folder` if it has been measured for this task on such a machine, and measured otherwise,
    for no longer than a run of so many `rounds` takes. It follows fixed rules if nothing is open, `tune_s` is 0 or
    there are several processes. A choice is not kept where memory ran out, as another program may have used it, or
    where the run was too short to measure all candidates. Raises UserError if no candidate works.
    """
    by_rule = plan_by_rule(plan, assemble)
    plans = list(candidates(plan, by_rule.lanes))
    if len(plans) < 2 or not plan.tune_s or jax.process_count() > 1:
        return by_rule
    path = folder / f"{cache_key(by_rule, assemble(by_rule), plans)}.json"
    remembered = read_remembered(path, say)
    if remembered:
        chosen = replace(by_rule, **remembered["choice"])
        say(f"plan: {describe_plan(chosen)}: {remembered['reason']}, remembered in {path}")
        return chosen
    best = fastest_candidate(plans, assemble, plan.tune_s, rounds)
    say(f"plan: {describe_plan(best.plan)}: {best.reason}" + ("" if best.lasting else "; measured again next time"))
    if best.lasting:
        choice = {name: getattr(best.plan, name) for name in MEASURED}
        content = {"choice": choice, "reason": best.reason, "made_with": versions()}
        disk.write_cache(path, json.dumps(content, indent=1).encode())
    return best.plan


def plan_by_rule(plan: Plan, assemble: Assemble, clients: int = 0) -> Plan:
    """Returns `plan` with open fields filled in by rules alone.

    On an accelerator it has as many lanes as fill a device with the network's products. A CPU has one lane on a device.
    `clients` are those that a device trains in a round; 0: as many as in the first cohort.
    """
    resolved = plan.resolve()
    platform = devices.current().platform
    if platform == "cpu" or (plan.lanes and plan.conv != "auto"):
        return resolved
    sim = assemble(resolved)
    cohort = jax.eval_shape(partial(draw_cohort, sim), jax.random.key(0), jnp.int32(0))
    clients = clients or -(-cohort.client.size // resolved.devices)
    step_flops = work.product_flops(traced_round(sim, resolved).jaxpr)
    lanes = plan.lanes or work.filling_lanes(platform, step_flops, clients)
    return next(candidates(plan, lanes))


def candidates(plan: Plan, lanes: int = 0) -> Iterator[Plan]:
    """Returns an iterator of plans that fill in what `plan` leaves open, the likely fastest first.

    `lanes` are those that the network asks for; 0: those of the platform.
    """
    platform, lanes = devices.current().platform, lanes or plan.resolve().lanes
    large = platform not in ("cpu", "tpu") and lanes <= FEW_LANES
    pairs = CANDIDATES["gpu, large steps" if large else platform if platform in CANDIDATES else "gpu"]
    filled = (
        replace(plan, conv=conv if plan.conv == "auto" else plan.conv, lanes=plan.lanes or max(1, int(times * lanes)))
        for conv, times in pairs
    )
    return iter(dict.fromkeys(candidate.resolve() for candidate in filled))


def fastest_candidate(plans: list[Plan], assemble: Assemble, seconds: float, rounds: float) -> Choice:
    """Returns the fastest plan and the measured times as text.

    Plans are compiled for `seconds`, or as long as a run of `rounds` takes if that is less; at least the first one that
    works. Of plans about as fast as each other the first is taken. Raises UserError if none works.
    """
    examples, begin = rounds * examples_of_round(assemble(plans[0])), time.perf_counter()
    trials, refusals = measure_candidates(plans, assemble, seconds, examples)
    if not trials:  # keep less for the backward pass
        trials, more = measure_candidates([replace(plan, remat=True) for plan in plans], assemble, seconds, examples)
        refusals = [*refusals, *more]
    if not trials:
        raise all_refused(refusals)
    limit = NOISE * min(trial.ms for trial in trials)
    best = next(trial for trial in trials if trial.ms <= limit)
    others = sorted((trial for trial in trials if trial is not best), key=lambda trial: trial.ms)
    rest = "; ".join(f"{describe_plan(trial.plan)} {trial.ms:.3g}" for trial in others) or "nothing else measured"
    reason = "; ".join([f"{best.ms:.3g} ms an example ({rest}", *count_refusals(refusals)]) + ")"
    as_asked = len(trials) + len(refusals) >= len(plans) or time.perf_counter() - begin >= seconds
    return Choice(best.plan, reason, lasting=as_asked and not any(refusal.transient for refusal in refusals))


def examples_of_round(sim: Simulation) -> int:
    """Returns how many examples the local steps of the first round's cohort have room for.

    An example counts in each epoch, and so does the padding of batches that are not full.
    """
    return int(first_cohort_steps(sim).sum()) * sim.local.batch


def measure_candidates(
    plans: list[Plan], assemble: Assemble, seconds: float, examples: float
) -> tuple[list[Trial], list[Refusal]]:
    """Returns the times of the candidates that work, and why the others do not.

    Compiles for about `seconds`, or as long as it takes to train on so many `examples` if that is less.
    """
    compiled, refusals = compile_candidates(plans, assemble, time.perf_counter() + seconds, examples)
    trials, more = time_candidates(compiled)
    return trials, [*refusals, *more]


def compile_candidates(
    plans: list[Plan], assemble: Assemble, end: float, examples: float
) -> tuple[list[CompiledTrial], list[Refusal]]:
    """Returns trials of the plans that compile and fit into memory, and why the others do not.

    No further plan is compiled once one is ready and the clock (`time.perf_counter`) has passed `end`, or as much time
    as that one needs to train on all `examples`: a better plan could not win it back.
    """
    compiled, refusals = list[CompiledTrial](), list[Refusal]()
    clients = max(plan.lanes for plan in plans)
    for plan in plans:
        if compiled and time.perf_counter() > end:
            break
        try:
            trial = compile_trial(plan, assemble, clients)
            if not compiled:
                end = min(end, time.perf_counter() + 1e-3 * trial() * examples)
            compiled.append((plan, trial))
        except REFUSING as error:
            refusals.append(refusal_of(plan, error))
    return compiled, refusals


def time_candidates(compiled: list[CompiledTrial]) -> tuple[list[Trial], list[Refusal]]:
    """Returns the fastest trial of each candidate, and why some could not be run.

    They take turns, so that a slow spell of the machine hits all.
    """
    times, end = {plan: list[float]() for plan, _ in compiled}, time.perf_counter() + LONG_S * len(compiled)
    refused = dict[Plan, Refusal]()
    for turn in range(REPEATS):
        if turn and time.perf_counter() > end:
            break
        for plan, trial in compiled:
            if plan in refused:
                continue
            try:
                times[plan].append(trial())
            except REFUSING as error:
                refused[plan] = refusal_of(plan, error)
    return [Trial(plan, min(times[plan])) for plan in times if plan not in refused], list(refused.values())


def refusal_of(plan: Plan, error: Exception) -> Refusal:
    """Returns why a plan does not work. The error itself is not kept: its traceback would keep arrays in memory."""
    if isinstance(error, UserError):
        return Refusal(plan, str(error), foreseen=True, transient=False)
    reason = f"{type(error).__name__}: {short_message(error)}"
    return Refusal(plan, reason, foreseen=False, transient=memory.ran_out(error))


def count_refusals(refusals: list[Refusal]) -> list[str]:
    """Returns how many candidates did not fit, how many compiler or device refused, and the first reason of these."""
    unforeseen = [refusal for refusal in refusals if not refusal.foreseen]
    misfits = len(refusals) - len(unforeseen)
    said = [f"{misfits} did not fit"] if misfits else []
    return said + ([f"{len(unforeseen)} refused, the first by {unforeseen[0].reason}"] if unforeseen else [])


def all_refused(refusals: list[Refusal]) -> UserError:
    """Returns the error for a run of which no candidate works, with the first reason of compiler or device if any."""
    unforeseen = [refusal for refusal in refusals if not refusal.foreseen]
    if not unforeseen:
        return UserError(refusals[-1].reason)
    first = unforeseen[0]
    if first.transient:
        remedy = "choose --plan.lanes 1 or a smaller local.batch, or free the memory that other programs use"
    else:
        remedy = "choose --plan.conv xla --plan.lanes 1 --plan.tune-s 0, or install another version of JAX"
    number = len({replace(refusal.plan, remat=False) for refusal in refusals})
    return UserError(f"plan: none of {number} plans works; {describe_plan(first.plan)}: {first.reason}; {remedy}")


def compile_trial(plan: Plan, assemble: Assemble, clients: int) -> Callable[[], float]:
    """Returns a function that measures how many milliseconds an example takes under `plan`.

    All candidates train the same number of `clients` on each device, so that the fixed costs of a round weigh the same
    on each. All lanes are busy in the trial; the time that they would be idle at the end of a round is added by
    calculation. Raises UserError if the program does not fit into memory.
    """
    plan, full = replace(plan, data="replicated", clients="device"), assemble(plan)
    sim, root = trial_simulation(full, plan.devices * clients), jax.random.key(0)
    tail = slots_per_step(first_cohort_steps(full), plan.devices * plan.lanes)
    segment = segments.build(sim, plan, root, 1)
    state, *_ = segment(initial_state(sim, plan, root), 1)

    def trial() -> float:
        nonlocal state
        start = time.perf_counter()
        state, work, _ = segment(state, 1)
        return 1e3 * (time.perf_counter() - start) * tail / float(work.examples.sum())

    return trial


def first_cohort_steps(sim: Simulation) -> jax.Array:
    """Returns the local steps int32 [K] of each client of the first round's cohort; 0 for absent clients."""
    cohort = draw_cohort(sim, jax.random.key(0), jnp.int32(0))
    sizes = jnp.asarray(sim.data.sizes)[cohort.client]
    return jnp.where(cohort.present, step_counts(sim.local, sizes), 0)


def slots_per_step(steps: jax.Array, lanes: int) -> float:
    """Returns lane passes per local step when clients with `steps` int32 [K] are dealt out to `lanes` lanes in all.

    It is 1 if no lane is ever idle.
    """
    queues = longest_first(steps, lanes)
    done = jnp.append(0, jnp.cumsum(steps[queues.order]))
    longest = jnp.max(done[queues.stop] - done[queues.start])
    return float(longest * len(queues.start) / jnp.maximum(done[-1], 1)) or 1.0


def trial_simulation(sim: Simulation, clients: int) -> Simulation:
    """Returns `sim` with the given number of clients, each with STEPS full batches of uniform grey images."""
    sizes = np.full(clients, STEPS * sim.local.batch, np.int32)
    local = sim.local._replace(epochs=1)
    sampler, data = Everyone().build(Population(sizes)), ClientData(sizes, (), grey_reader(sim.data))
    return sim._replace(sampler=sampler, local=local, data=data, conditions=ideal)


def grey_reader(data: ClientData) -> Callable[..., Batch]:
    """Returns a `read` function that gives arrays of the same shapes as that of `data`, at no cost."""
    store = specimen(data)

    def read(_: Any, client: jax.Array, indices: jax.Array) -> Batch:
        shapes = jax.eval_shape(data.read, store, client, indices)
        shade = (client + indices) % 2  # depends on the arguments, so that the compiler cannot fold it
        return {name: _filled(shape, shade) for name, shape in shapes.items()}

    return read


def _filled(shape: jax.ShapeDtypeStruct, shade: jax.Array) -> jax.Array:
    return jnp.broadcast_to(shade.reshape(-1, *(1 for _ in shape.shape[1:])), shape.shape).astype(shape.dtype)


def cache_key(by_rule: Plan, sim: Simulation, plans: list[Plan]) -> str:
    """Returns a digest of the round's program and shapes, the idle lanes, the candidate `plans` and the device.

    The choice of a plan is reused by runs with the same digest.
    """
    program = re.sub(r"0x[0-9a-f]+", "", str(traced_round(sim, by_rule)))  # without the addresses of functions
    steps, counts = first_cohort_steps(sim), sorted({plan.devices * plan.lanes for plan in plans})
    tails = [round(slots_per_step(steps, lanes), 2) for lanes in counts]
    parts = (program, [asdict(plan) for plan in plans], tails, jax.devices()[0].device_kind, os.cpu_count())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def traced_round(sim: Simulation, plan: Plan) -> Any:
    """Returns a round of one client on one lane of one device as JAX has traced it."""
    plan = replace(plan, devices=1, lanes=1, data="replicated", clients="device")
    sim, root = trial_simulation(sim, 1), jax.random.key(0)
    placed = jax.tree.map(jnp.asarray, all_examples(sim.data))
    return jax.make_jaxpr(partial(one_round, sim, plan))(
        state_shapes(sim), root, placed, draw_cohort(sim, root, jnp.int32(0))
    )


def read_remembered(path: pathlib.Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Returns the choice kept in a file; None if there is none, or, with one message, if it is damaged or outdated."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["made_with"] == versions() and set(kept["choice"]) == set(MEASURED) and kept["reason"]:
            return kept
        say(f"plan: {path} was measured with {kept['made_with']}, not {versions()}; measuring again")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"plan: {path} cannot be read ({type(error).__name__}); measuring again")
    return None


def versions() -> str:
    """Returns the versions of JAX and of its platform, for which a measurement is valid."""
    return f"jax {jax.__version__}, {jax.devices()[0].client.platform_version.splitlines()[0]}"


def describe_plan(plan: Plan) -> str:
    """Returns the measured fields of a plan as text."""
    lanes = f"{plan.lanes} lane{'s' * (plan.lanes > 1)} on each of {plan.devices} devices"
    return f"{plan.conv} convolutions, {lanes}" + (", remat" if plan.remat else "")
