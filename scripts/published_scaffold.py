"""Repeats SCAFFOLD's simulated experiment: the rounds that each method takes to the optimum of two quadratics.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD, ICML 2020 (arXiv 1910.06378), section 7.2 and figure 3: N = 2
quadratics as in the lower bound of theorem II, full gradients, everyone takes part, Hessian difference 1, smoothness 1,
gradient heterogeneity G of 1, 10 and 100, and K local steps. Here f1(x) = x^2 + G x and f2(x) = -G x, so that f(x) =
x^2 / 2.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from trajectory import trajectory

from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import placement
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state
from fedjax_mri.fed.sampling import Cohort, Everyone, Population
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.world.conditions import Conditions, Turnout, ideal
from fedjax_mri.tasks.task import Batch, Carry, Metrics, Model, Params, Phase, Task, everything, mean

START = 1.0  # x before the first round
MAX_STEPS = 10  # local steps that there is room for
GAPS = 1.0, 10.0, 100.0  # G
CURVATURE, SLOPE = np.array([2.0, 0.0], np.float32), np.array([1.0, -1.0], np.float32)  # of f1, f2; slopes in G


class Run(NamedTuple):
    """Settings of one run; as arrays over runs, each has a leading axis [n]."""

    steps: Any  # local steps K, 1 to MAX_STEPS
    rate: Any
    gap: Any  # G
    primed: Any = (
        0.0  # 1: SCAFFOLD's control variates are the gradients at the start; 0: they are 0, as the paper allows
    )


def errors(algorithm: Any, runs: Iterable[Run], rounds: int) -> np.ndarray:
    """f(x) - f* after each round of each run, [n, rounds]; all runs are one program."""
    plan, root = Plan(devices=1, lanes=2).resolve(), jax.random.key(0)

    @jax.jit
    @jax.vmap
    def every(run: Run) -> jax.Array:
        sim = simulation(algorithm, run)
        start, placed = prime(init_state(sim, root), run), placement.place_examples(sim.data, plan)
        return trajectory(sim, plan, placed, root, start, rounds, lambda s: jnp.square(s.server.model.params["x"]) / 2)

    return np.asarray(every(Run(*(np.array(field, np.float32) for field in zip(*runs)))))


def prime(state: State, run: Run) -> State:
    """A start with the run's control variates; algorithms without any are left alone."""
    gradients = run.primed * (CURVATURE * START + run.gap * SLOPE)
    own = jax.tree.map(lambda _: gradients, state.clients.state)
    mean = jax.tree.map(lambda _: gradients.mean(), state.server.extra)
    return state._replace(clients=state.clients._replace(state=own), server=state.server._replace(extra=mean))


def simulation(algorithm: Any, run: Run) -> Simulation:
    """Two clients with one function each, so that an epoch is a step."""
    data = resident({"curvature": CURVATURE, "slope": SLOPE}, [np.array([0]), np.array([1])])
    chain = UplinkSettings().build()
    local = Local(MAX_STEPS, 1, optax.sgd, lambda round: run.rate)
    everyone = Everyone().build(Population(data.sizes))
    return Simulation(quadratics(run.gap), algorithm.build(), chain, everyone, local, data, first(run.steps))


def first(steps: Any) -> Conditions:
    """Clients do the first `steps` of their local steps."""

    def meet(key: jax.Array, round: jax.Array, cohort: Cohort, full: jax.Array, traffic: Traffic) -> Turnout:
        return ideal(key, round, cohort, jnp.minimum(full, jnp.int32(steps)), traffic)

    return meet


def quadratics(gap: jax.Array) -> Task:
    """The task of minimising the mean of what the clients hold: curvature x^2 / 2 + gap slope x."""

    def init(key: jax.Array) -> Model:
        return Model({"x": jnp.float32(START)}, {})

    def values(params: Params, batch: Batch) -> jax.Array:
        return batch["curvature"] * params["x"] ** 2 / 2 + gap * batch["slope"] * params["x"]

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        return mean(values(params, batch), batch["weight"]), (carry, evaluate(params, carry, batch))

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return jnp.sum(values(params, batch) * batch["weight"])

    def predict(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return values(params, batch)

    phases = (Phase(loss, everything),)
    return Task(init, phases, evaluate, predict, everything, lambda sums: {"f": float(sums)}, lambda sums: -sums)


def drift(steps: int, rate: float, gap: float) -> float:
    """Where FedAvg ends instead of at 0: the fixed point of x -> mean of the clients' K steps.

    G (K eta / (1 - (1 - 2 eta)^K) - 1 / 2), for 0 < 2 eta < 2: zero for K = 1, else it grows with K, eta and G.
    """
    return gap * (steps * rate / (1 - (1 - 2 * rate) ** steps) - 0.5)


def until(errors: np.ndarray, target: float) -> int | None:
    """The first round, counted from 1, after which the error [rounds] stays below the target; None: never."""
    above = np.flatnonzero(~(errors < target))
    first = int(above[-1]) + 2 if len(above) else 1
    return first if first <= len(errors) else None


RATE, TARGET, ROUNDS = 0.1, 1e-6, 160
LOCAL = 2, 10  # K
BUDGETS = 10, 40, 160  # rounds R of theorem II
RATES = np.geomspace(1e-4, 1.0, 200)


def table() -> str:
    """Rounds to the target at one rate for all, and FedAvg at the best rate of a grid."""
    return f"{rounds_table()}\n\n{bound_table()}"


def rounds_table() -> str:
    """Rounds until f(x) - f* stays below TARGET, and what is left where it never does."""
    plain = [Run(steps, RATE, gap) for steps in (1, *LOCAL) for gap in GAPS]
    corrected = [Run(steps, RATE, gap, primed) for primed in (0.0, 1.0) for steps in LOCAL for gap in GAPS]
    found = np.concatenate([errors(FedAvg(), plain, ROUNDS), errors(Scaffold(), corrected, ROUNDS)])
    rows = [f"| rate {RATE:g} | K | c_i at first | {' | '.join(f'G = {gap:g}' for gap in GAPS)} |", "|---" * 6 + "|"]
    every = [*plain, *corrected]
    for place in range(0, len(every), len(GAPS)):
        cells = map(reached, found[place : place + len(GAPS)], found)  # the first rows are SGD's, for each G
        rows.append(f"| {named(every[place], place < len(plain))} | {' | '.join(cells)} |")
    return "\n".join(rows)


def named(run: Run, plain: bool) -> str:
    """Method, K and control variates of a row."""
    method = ("SGD" if run.steps == 1 else "FedAvg") if plain else "SCAFFOLD"
    return f"{method} | {run.steps} | {'-' if plain else 'gradient' if run.primed else '0'}"


def reached(error: np.ndarray, base: np.ndarray) -> str:
    """Rounds to the target, and how many times as many `base` takes; or what is left."""
    count, other = until(error, TARGET), until(base, TARGET)
    return f"never, {error[-1]:.2g} left" if count is None or other is None else f"{count} ({other / count:.1f} x)"


def bound_table() -> str:
    """f(x^R) - f* of FedAvg at its best rate for R rounds, also in units of theorem II: G^2 / (mu R^2), mu = 1."""
    titles = " | ".join(f"after R = {budget}" for budget in BUDGETS)
    rows = [f"| FedAvg, best of {len(RATES)} rates | G | {titles} |", "|---" * 5 + "|"]
    kinds = [(steps, gap) for steps in LOCAL for gap in GAPS]
    found = errors(FedAvg(), [Run(steps, rate, gap) for steps, gap in kinds for rate in RATES], max(BUDGETS))
    for (steps, gap), several in zip(kinds, found.reshape(len(kinds), len(RATES), -1)):
        best = [float(np.nanmin(several[:, budget - 1])) for budget in BUDGETS]
        cells = [f"{error:.2g} = {error * (budget / gap) ** 2:.2g} G²/R²" for error, budget in zip(best, BUDGETS)]
        rows.append(f"| K = {steps} | {gap:g} | {' | '.join(cells)} |")
    return "\n".join(rows)
