"""SCAFFOLD's simulated experiment: two quadratics that pull apart, and the rounds each method takes to the optimum.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD, ICML 2020 (arXiv 1910.06378), section 7.2 and figure 3: N = 2
quadratics after the lower bound of theorem II, full gradients, everyone takes part, Hessian difference 1, smoothness 1,
gradient heterogeneity G in 1, 10, 100, K local steps. Here f1(x) = x^2 + G x and f2(x) = -G x, so that f(x) = x^2 / 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from trajectory import trajectory

from fedjax_mri.data.resident import resident
from fedjax_mri.fed import engine, placement, uplink
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine import Simulation, State
from fedjax_mri.fed.local import Local
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.tasks.task import Batch, Carry, Metrics, Model, Params, Phase, Task, everything, mean

START = 1.0  # x before the first round
GAPS = np.array([1.0, 10.0, 100.0], np.float32)  # G
CURVATURE, SLOPE = np.array([2.0, 0.0], np.float32), np.array([1.0, -1.0], np.float32)  # of f1, f2; slopes in G

Run = Callable[[np.ndarray, np.ndarray], jax.Array]  # rates [n], gaps [n] -> f(x) after each round, [n, rounds]


def runs(algorithm: Any, steps: int, rounds: int, primed: bool = False) -> Run:
    """Many runs of an algorithm's settings as one program, with `steps` local steps a round.

    `primed` control variates of SCAFFOLD are the gradients at the start; else they are 0, as the paper allows.
    """
    plan = Plan(devices=1, lanes=2).resolve()

    def one(rate: jax.Array, gap: jax.Array) -> jax.Array:
        sim, root = simulation(algorithm, steps, rate, gap), jax.random.key(0)
        start = engine.init(sim, root)
        start = prime(start, gap) if primed else start
        placed = placement.placed(sim.data, plan)
        return trajectory(sim, plan, placed, root, start, rounds, lambda s: jnp.square(s.server.model.params["x"]) / 2)

    return jax.jit(jax.vmap(one))


def prime(state: State, gap: jax.Array) -> State:
    """SCAFFOLD's control variates as option I would set them at the start."""
    gradients = CURVATURE * START + gap * SLOPE
    clients = state.clients._replace(state={"x": gradients})
    return state._replace(clients=clients, server=state.server._replace(extra={"x": gradients.mean()}))


def simulation(algorithm: Any, steps: int, rate: jax.Array, gap: jax.Array) -> Simulation:
    """Two clients with one function each, so that an epoch is a step."""
    data = resident({"curvature": CURVATURE, "slope": SLOPE}, [np.array([0]), np.array([1])])
    chain = uplink.chain(uplink.by_examples(), reduce=uplink.mean())
    local = Local(steps, 1, optax.sgd, lambda round: rate)
    return Simulation(
        quadratics(gap), algorithm.build(), chain, Everyone().build(Population(np.ones(2, np.int32))), local, data
    )


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


RATE, TARGET, ROUNDS = 0.1, 1e-6, 400
LOCAL = 2, 10  # K
BUDGETS = 10, 40, 160  # rounds R of theorem II
RATES = np.geomspace(1e-4, 1.0, 200, dtype=np.float32)


def table() -> str:
    """Rounds to the target at one rate for all, and FedAvg at the best rate of a grid."""
    return f"{rounds_table()}\n\n{bound_table()}"


def rounds_table() -> str:
    """Rounds until f(x) - f* stays below TARGET, and where FedAvg stays instead."""
    rate = np.full(len(GAPS), RATE, np.float32)
    sgd = runs(FedAvg(), 1, ROUNDS)(rate, GAPS)
    methods = {"SGD (FedAvg, K = 1)": sgd}
    for steps in LOCAL:
        methods[f"FedAvg, K = {steps}"] = runs(FedAvg(), steps, ROUNDS)(rate, GAPS)
        methods[f"SCAFFOLD, K = {steps}, c_i = 0 at first"] = runs(Scaffold(), steps, ROUNDS)(rate, GAPS)
        methods[f"SCAFFOLD, K = {steps}, c_i = gradient at first"] = runs(Scaffold(), steps, ROUNDS, True)(rate, GAPS)
    rows = [
        f"| rounds to f < {TARGET:g}, rate {RATE:g} | {' | '.join(f'G = {gap:g}' for gap in GAPS)} |",
        "|---|---|---|---|",
    ]
    for name, found in methods.items():
        rows.append(
            f"| {name} | {' | '.join(reached(one, base) for one, base in zip(np.asarray(found), np.asarray(sgd)))} |"
        )
    return "\n".join(rows)


def reached(errors: np.ndarray, base: np.ndarray) -> str:
    """Rounds to the target, and how many times fewer than `base` needs; or the error that is left."""
    count, other = until(errors, TARGET), until(base, TARGET)
    return f"never: f = {errors[-1]:.2g}" if count is None or other is None else f"{count} ({other / count:.1f} x)"


def bound_table() -> str:
    """f(x^R) - f* of FedAvg at its best rate for R rounds, also in units of theorem II: G^2 / (mu R^2), mu = 1."""
    rows = [
        "| best of 200 rates | G | " + " | ".join(f"R = {budget}" for budget in BUDGETS) + " |",
        "|---|---|---|---|---|",
    ]
    for steps in LOCAL:
        for gap in GAPS:
            errors = np.asarray(runs(FedAvg(), steps, max(BUDGETS))(RATES, np.full_like(RATES, gap)))
            best = [np.nanmin(errors[:, budget - 1]) for budget in BUDGETS]
            cells = (f"{error:.2g} = {error * budget**2 / gap**2:.2g} G² / R²" for error, budget in zip(best, BUDGETS))
            rows.append(f"| FedAvg, K = {steps} | {gap:g} | {' | '.join(cells)} |")
    return "\n".join(rows)
