"""The plan by measurement: a few candidates train small clients for a moment, the fastest is taken and remembered."""

import hashlib
import json
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

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Batch, ClientData
from fedjax_mri.data.resident import specimen
from fedjax_mri.fed.client.local import step_counts
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.placement import place_examples
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.rounds import one_round
from fedjax_mri.fed.engine.schedule import longest_first
from fedjax_mri.fed.engine.simulation import Simulation, draw_cohort, init_state, initial_state
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.fed.world.conditions import ideal

STEPS = 4  # local steps of each client in a trial
REPEATS, LONG_S = 25, 1.0  # trials of each candidate, no more once they take LONG_S seconds each: the fastest counts
NOISE = 1.05  # a likelier candidate that is slower by no more than this is taken
OPEN = ("lanes", "conv", "remat")  # what a measurement decides, where the plan leaves it open
WAYS = {  # fastest first, as far as is known
    "cpu": (("direct", 1), ("direct", 2), ("direct", 4), ("gemm", 1), ("gemm", 4)),
    "gpu": (("gemm", 16), ("gemm", 64), ("gemm", 4), ("xla", 16), ("direct", 4)),
    "tpu": (("gemm", 16), ("xla", 16), ("gemm", 64), ("gemm", 4)),
}

Assemble = Callable[[Plan], Simulation]
Entrant = tuple[Plan, Callable[[], float]]


class Trial(NamedTuple):
    """One candidate, measured."""

    plan: Plan
    ms: float  # per example, of a round with its tail


def choose_plan(plan: Plan, assemble: Assemble, folder: pathlib.Path, say: Callable[[str], None]) -> Plan:
    """`plan` with what it leaves open decided, the reason said: by `folder`'s memory of this task on such a machine,
    else by measuring, else (nothing open, `tune_s` 0, several processes) by rule. Raises UserError where none fits."""
    usual = plan.resolve()
    tries = list(candidates(plan))
    if len(tries) < 2 or not plan.tune_s or jax.process_count() > 1:
        return usual
    path = folder / f"{cache_key(usual, assemble(usual), tries)}.json"
    remembered = read_remembered(path, say)
    if remembered:
        found = replace(usual, **remembered["choice"])
        say(f"plan: {describe_plan(found)}: {remembered['reason']}, remembered in {path}")
        return found
    best, reason = fastest_candidate(tries, assemble, plan.tune_s)
    say(f"plan: {describe_plan(best)}: {reason}")
    memory = {"choice": {name: getattr(best, name) for name in OPEN}, "reason": reason, "made_with": versions()}
    disk.remember(path, json.dumps(memory, indent=1).encode())
    return best


def candidates(plan: Plan) -> Iterator[Plan]:
    """Plans that fill in what `plan` leaves open, the likeliest first."""
    ways = WAYS.get(jax.default_backend(), WAYS["gpu"])
    filled = (replace(plan, conv=_open(plan.conv, "auto", c), lanes=_open(plan.lanes, 0, n)) for c, n in ways)
    return iter(dict.fromkeys(one.resolve() for one in filled))


def _open(given: Any, blank: Any, filler: Any) -> Any:
    return filler if given == blank else given


def fastest_candidate(tries: list[Plan], assemble: Assemble, seconds: float) -> tuple[Plan, str]:
    """The best of those that could be compiled within `seconds`, of equals the likeliest; the first is in any case."""
    ready, refusals = compile_candidates(tries, assemble, time.perf_counter() + seconds)
    if not ready:  # keep less for the backward pass
        ready, refusals = compile_candidates(
            [replace(one, remat=True) for one in tries], assemble, time.perf_counter() + seconds
        )
    if not ready:
        raise refusals[-1]
    trials = time_candidates(ready)
    limit = NOISE * min(trial.ms for trial in trials)
    best = next(trial for trial in trials if trial.ms <= limit)
    others = sorted((trial for trial in trials if trial is not best), key=lambda trial: trial.ms)
    rest = "; ".join(f"{describe_plan(trial.plan)} {trial.ms:.3g}" for trial in others)
    misfits = f"; {len(refusals)} did not fit" if refusals else ""
    return best.plan, f"{best.ms:.3g} ms an example ({rest or 'nothing else measured'}{misfits})"


def compile_candidates(tries: list[Plan], assemble: Assemble, end: float) -> tuple[list[Entrant], list[UserError]]:
    """Those that fit, compiled, as far as there is time before `end`; and why others do not."""
    ready, refusals = list[Entrant](), list[UserError]()
    clients = max(plan.lanes for plan in tries)
    for plan in tries:
        if ready and time.perf_counter() > end:
            break
        try:
            ready.append((plan, compile_trial(plan, assemble, clients)))
        except UserError as refusal:
            refusals.append(refusal)
    return ready, refusals


def time_candidates(ready: list[Entrant]) -> list[Trial]:
    """The fastest trial of each. They take turns, so that a machine that slows down slows all."""
    times, end = {plan: list[float]() for plan, _ in ready}, time.perf_counter() + LONG_S * len(ready)
    for turn in range(REPEATS):
        if turn and time.perf_counter() > end:
            break
        for plan, once in ready:
            times[plan].append(once())
    return [Trial(plan, min(found)) for plan, found in times.items()]


def compile_trial(plan: Plan, assemble: Assemble, clients: int) -> Callable[[], float]:
    """A trial of `plan`: milliseconds an example takes. Raises UserError when it does not fit.

    All candidates train as many `clients` a device, so that what a round costs besides weighs the same on each, and
    all lanes are busy; what they would wait in the tail of a round is reckoned, not measured.
    """
    plan, real = replace(plan, data="replicated", clients="device"), assemble(plan)
    sim, root = trial_simulation(real, plan.devices * clients), jax.random.key(0)
    tail = slots_per_step(first_cohort_steps(real), plan.devices * plan.lanes)
    round = segments.build(sim, plan, root, 1)
    state, *_ = round(initial_state(sim, plan, root), 1)

    def once() -> float:
        nonlocal state
        start = time.perf_counter()
        state, work, _ = round(state, 1)
        return 1e3 * (time.perf_counter() - start) * tail / float(work.examples.sum())

    return once


def first_cohort_steps(sim: Simulation) -> jax.Array:
    """Useful steps int32 [K] of each client of the first round's cohort."""
    cohort = draw_cohort(sim, jax.random.key(0), jnp.int32(0))
    sizes = jnp.asarray(sim.data.sizes)[cohort.client]
    return jnp.where(cohort.present, step_counts(sim.local, sizes), 0)


def slots_per_step(steps: jax.Array, lanes: int) -> float:
    """Slots for each useful step when clients of `steps` [K] are dealt out to so many lanes in all: 1 if none waits."""
    queues = longest_first(steps, lanes)
    done = jnp.append(0, jnp.cumsum(steps[queues.order]))
    longest = jnp.max(done[queues.stop] - done[queues.start])
    return float(longest * len(queues.start) / jnp.maximum(done[-1], 1)) or 1.0


def trial_simulation(sim: Simulation, clients: int) -> Simulation:
    """`sim` with that many clients, each of STEPS full batches of grey images."""
    sizes = np.full(clients, STEPS * sim.local.batch, np.int32)
    local = sim.local._replace(epochs=1)
    sampler, data = Everyone().build(Population(sizes)), ClientData(sizes, (), grey_reader(sim.data))
    return sim._replace(sampler=sampler, local=local, data=data, conditions=ideal)


def grey_reader(data: ClientData) -> Callable[..., Batch]:
    """A `read` of the same shapes as `data`'s that costs nothing."""
    store = specimen(data)

    def read(_: Any, client: jax.Array, indices: jax.Array) -> Batch:
        shapes = jax.eval_shape(data.read, store, client, indices)
        shade = (client + indices) % 2  # known to no compiler
        return {name: _filled(shape, shade) for name, shape in shapes.items()}

    return read


def _filled(shape: jax.ShapeDtypeStruct, shade: jax.Array) -> jax.Array:
    return jnp.broadcast_to(shade.reshape(-1, *(1 for _ in shape.shape[1:])), shape.shape).astype(shape.dtype)


def cache_key(usual: Plan, sim: Simulation, tries: list[Plan]) -> str:
    """Names a task, its shapes, the candidates and the device: where all are the same, so is the best plan."""
    one = replace(usual, devices=1, lanes=1, data="replicated", clients="device")
    whole, sim = sim, trial_simulation(sim, 1)
    state, root = jax.eval_shape(partial(init_state, sim), jax.random.key(0)), jax.random.key(0)
    traced = jax.make_jaxpr(partial(one_round, sim, one))(
        state, root, place_examples(sim.data, one), draw_cohort(sim, root, jnp.int32(0))
    )
    program = re.sub(r"0x[0-9a-f]+", "", str(traced))  # without the addresses of functions
    steps, counts = first_cohort_steps(whole), sorted({one.devices * one.lanes for one in tries})
    tails = [round(slots_per_step(steps, lanes), 2) for lanes in counts]
    parts = (program, [asdict(one) for one in tries], tails, jax.devices()[0].device_kind, os.cpu_count())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def read_remembered(path: pathlib.Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What was remembered there; a damaged or outdated memory is passed over with one line."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["made_with"] == versions() and set(found["choice"]) == set(OPEN) and found["reason"]:
            return found
        say(f"plan: {path} was measured with {found['made_with']}, not {versions()}; measuring again")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"plan: {path} cannot be read ({type(error).__name__}); measuring again")
    return None


def versions() -> str:
    """What a measurement holds for."""
    return f"jax {jax.__version__}, {jax.devices()[0].client.platform_version.splitlines()[0]}"


def describe_plan(plan: Plan) -> str:
    """The part of a plan that is measured."""
    lanes = f"{plan.lanes} lane{'s' * (plan.lanes > 1)} on each of {plan.devices} devices"
    return f"{plan.conv} convolutions, {lanes}" + (", remat" if plan.remat else "")
