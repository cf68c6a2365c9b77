"""Who gains from whose taking part: a run trained again, short, without each of its sites."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.fed.engine import evaluate, placement, segments
from fedjax_mri.fed.engine.placement import Placed
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.rounds import one_round
from fedjax_mri.fed.engine.simulation import Simulation, State, draw_cohort, initial_state
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.experiment import assemble, describe

MOST = 64  # sites that are left out one by one


def gains(config: Experiment, rounds: int, say: Callable[[str], None]) -> np.ndarray:
    """What each site's taking part adds to the score of each other, float [N, N]: row k, column j: of k for j.

    The run is trained for `rounds` rounds by everyone, and once without each site, all else the same; nan for a site
    without test examples. Raises UserError for more than MOST sites, or where no test set belongs to training sites.
    """
    federation = config.data.build(config.seed)
    sites = len(federation.train.sizes)
    refuse_many(sites)
    test = next((test for test in federation.tests.values() if (test.owner >= 0).any()), None)
    if test is None:
        raise UserError("--leave-one-out: no test set belongs to the sites that train; nobody could gain")
    plan = replace(config.plan, data="replicated", clients="device").resolve()
    score = scorer(config, federation, plan, rounds, test)
    scores = []
    for site in (-1, *range(sites)):
        scores.append(score(site))
        say(f"trained {rounds} rounds " + (f"without site {site} of {sites}" if site >= 0 else "with everyone"))
    return scores[0][None] - np.stack(scores[1:])


def refuse_many(sites: int) -> None:
    """Raises UserError where leaving sites out one by one would take too long."""
    if sites > MOST:
        raise UserError(f"--leave-one-out: {sites} sites would be {sites + 1} runs; this is for {MOST} sites or fewer")


def scorer(config: Experiment, federation: Federation, plan: Plan, rounds: int, test: Test) -> Callable[..., Any]:
    """Site left out, or -1 -> the score of each site after training without it, float [N]; compiled once."""
    described, root = describe(federation), jax.random.key(config.seed)

    def simulated(without: Any) -> Simulation:
        return assemble(replace(config, sampling=Everyone(without)), described, federation.train, plan)

    def train(state: State, root: jax.Array, placed: Placed, without: jax.Array) -> State:
        sim = simulated(without)

        def body(_: jax.Array, state: State) -> State:
            return one_round(sim, plan, state, root, placed, draw_cohort(sim, root, state.round))[0]

        return jax.lax.fori_loop(0, rounds, body, state)

    sim, placed = simulated(-1), placement.placed(federation.train, plan)
    first, judge = initial_state(sim, plan, root), evaluate.build(sim.task, plan, {"": test})
    program = segments.compiled(plan, train, first, root, placed, np.int32(-1))

    def score(without: int) -> np.ndarray:
        state = program(jax.tree.map(jnp.copy, first), root, placed, np.int32(without))
        metrics = judge(stranger(state, without))[""].metrics
        return np.asarray(sim.task.score(trees.sum_by(metrics, test.owner, len(federation.train.sizes))))

    return score


def stranger(state: State, site: int) -> State:
    """`state` where the `site` left out has the mean of the others' own parts, as any that took no part."""
    if site < 0:
        return state
    mean = evaluate.own(state.clients, np.array([-1]))
    model = trees.put(state.clients.model, jnp.array([site]), mean)
    return state._replace(clients=state.clients._replace(model=model))
